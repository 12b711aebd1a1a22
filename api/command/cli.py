"""The `pensieve` command: its subcommands, and every failure in one line."""

import argparse
import os
import platform
import sys
import threading
import traceback
from collections import abc
from dataclasses import replace
from typing import NoReturn

import shtab

from ... import PensieveError
from ...bench.config import BenchConfig, ReplayConfig, TraceConfig
from ..config import ServerConfig
from .command_line import make_parser, split_client_arguments
from .flags import Settings, UsageError, read_config, read_settings
from .platforms import NUM_FILES, few_files, unsupported

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # as shells count it: 128 + SIGINT

MLX_HINT = (
    "`make install` chooses its backend; with pip, uv or pipx install pensieve[cpu], pensieve[cuda12] or "
    "pensieve[cuda13] on Linux"
)


def main(argv: abc.Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        _run(arguments)
    except KeyboardInterrupt:
        print("pensieve: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if "debug" in arguments:
            traceback.print_exc()
        print(f"pensieve: {explain(error)}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def run() -> NoReturn:
    """Run the command and end the process, whatever its threads still compute for requests."""
    code = main()
    if threading.active_count() == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def explain(error: Exception) -> str:
    """Return an error as one line for the user."""
    text = " ".join(str(error).split())
    if isinstance(error, PensieveError):
        return text
    return f"unexpected {type(error).__name__}: {text} (--log-level debug shows where)"


def _run(arguments: list[str]) -> None:
    if arguments[:1] == ["claude"]:
        _claude(arguments[1:])
        return
    parser = make_parser()
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise UsageError(
            f"unrecognized arguments: {' '.join(unknown)} (see pensieve {namespace.command} --help)"
        )
    if namespace.command == "completion":
        print(shtab.complete(parser, namespace.shell))
    elif namespace.command == "bench":
        _bench(namespace)
    elif namespace.command == "sessions":
        _sessions(namespace)
    else:
        _check_machine()
        COMMANDS[namespace.command](namespace, read_settings(namespace))


def _bench(namespace: argparse.Namespace) -> None:
    try:
        trace, config = read_config(TraceConfig, namespace), read_config(BenchConfig, namespace)
        replay = read_config(ReplayConfig, namespace)
        if replay.trace is not None and trace != TraceConfig():
            raise ValueError("--trace has sessions of its own: it goes with no flag of the drawn fleet")
    except ValueError as error:
        raise UsageError(str(error)) from error
    # Imported here: a server never needs it.
    from ...bench.main import bench

    bench(trace, replay, config)


def _sessions(namespace: argparse.Namespace) -> None:
    try:
        config = read_config(ServerConfig, namespace)
    except ValueError as error:
        raise UsageError(str(error)) from error
    # Imported here: a server never needs it.
    from .session_screen import drop_session, show_sessions

    if namespace.action is None:
        show_sessions(config, watch=namespace.watch, as_json=namespace.json)
    elif namespace.name is None:
        raise UsageError("sessions drop: name the session by its ID (see pensieve sessions)")
    else:
        drop_session(config, namespace.name)


def _claude(arguments: list[str]) -> None:
    flags, rest = split_client_arguments(arguments)
    namespace = make_parser().parse_args(["claude", *flags])
    config = read_settings(namespace).server
    # Imported here: other commands never need it.
    from .launch import launch, print_environment

    if namespace.print_env:
        print_environment(config)
    else:
        raise SystemExit(launch(config, flags, rest))


def _check_machine() -> None:
    """Raise UsageError where MLX or mlx-lm could not even be imported."""
    problem = unsupported(platform.system(), platform.machine(), sys.version_info[:2])
    if problem is not None:
        raise UsageError(problem)
    if few_files():
        raise UsageError(f"mlx-lm needs {NUM_FILES} open files: raise the hard limit (ulimit -Hn)")
    # Imported here, because it imports MLX: --help must be quick, and must work where MLX does not.
    try:
        from . import local_models as local_models
    except ImportError as error:
        if not (error.name or "").startswith("mlx") and "libmlx" not in str(error):
            raise
        raise UsageError(f"MLX cannot be imported ({error}): {MLX_HINT}") from error


def _serve(_: argparse.Namespace, settings: Settings) -> None:
    from ...engine.ranks.rank_hosts import launched_rank

    if launched_rank(os.environ) > 0:
        from .follow_rank import follow_rank

        follow_rank(settings.server)
        return
    from .serve import serve

    serve(settings)


def _pull(namespace: argparse.Namespace, settings: Settings) -> None:
    from ...engine.process import EngineProcess
    from .local_models import pull

    config = replace(settings.engine, model=namespace.name or settings.engine.model)
    with EngineProcess() as engine:
        pull(engine, config, settings.scheduler.max_batch)


def _models(_: argparse.Namespace, settings: Settings) -> None:
    from ...engine.process import EngineProcess
    from .local_models import print_models

    with EngineProcess() as engine:
        print_models(engine, settings.engine, settings.scheduler.max_batch)


def _doctor(namespace: argparse.Namespace, settings: Settings) -> None:
    from ...engine.process import EngineProcess
    from .doctor import examine

    with EngineProcess() as engine:
        examine(engine, settings.engine, settings.server, settings.scheduler.max_batch, namespace.online)


COMMANDS = {"serve": _serve, "pull": _pull, "models": _models, "doctor": _doctor}
"""The commands that take the flags of `serve`. Each imports its own module, as all of them import MLX."""
