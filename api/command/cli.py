"""The `pensieve` command: its subcommands, and every failure in one line."""

import argparse
import dataclasses
import os
import platform
import sys
import threading
import traceback
from collections import abc
from dataclasses import replace
from typing import NoReturn

import shtab

from ... import PensieveError, __version__
from ...bench.config import BenchConfig, ReplayConfig, TraceConfig
from .flags import CONFIGS, Settings, UsageError, add_flags, flag_name, read_config, read_settings
from .platforms import NUM_FILES, few_files, installed, unsupported

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # as shells count it: 128 + SIGINT

PRINT_ENV = "--print-env"
BENCH_CONFIGS = (TraceConfig, ReplayConfig, BenchConfig)


MLX_HINT = (
    "`make install` chooses its backend; with pip, uv or pipx install pensieve[cpu], pensieve[cuda12] or "
    "pensieve[cuda13] on Linux"
)


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print its usage and exit with 2."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message} (see {self.prog} --help)")


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


def make_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(prog="pensieve", description="Serve many Claude Code sessions from one local MLX model.")
    versions = f"pensieve {__version__} (mlx {installed('mlx')}, mlx-lm {installed('mlx-lm')})"
    parser.add_argument("--version", action="version", version=versions)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    _add_server_commands(commands)
    _add_model_commands(commands)
    fleet = (
        "Behave as a fleet of Claude Code sessions towards a server that runs already, and report its times."
    )
    bench = commands.add_parser(
        "bench", help="measure a server with a fleet of sessions", description=fleet, allow_abbrev=False
    )
    for config in BENCH_CONFIGS:
        add_flags(bench, config)
    completion = commands.add_parser(
        "completion",
        help="print what completes this command in a shell",
        description='Print a script that completes this command: `eval "$(pensieve completion bash)"`.',
    )
    completion.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    return parser


def _add_server_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    serve = commands.add_parser(
        "serve", help="start the server", description="Start the server.", allow_abbrev=False
    )
    client = commands.add_parser(
        "claude",
        help="start Claude Code on the server",
        usage="pensieve claude [--print-env] [FLAGS of serve] [ARGS of claude ...]",
        description="Start Claude Code on the server at --host and --port; where none answers, start one "
        "for it with these flags. What stands behind the flags goes to Claude Code.",
        allow_abbrev=False,
    )
    client.add_argument(
        PRINT_ENV, action="store_true", help="print the environment for a shell, and start nothing"
    )
    _add_serve_flags(serve, client)


def _add_model_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    pull = commands.add_parser(
        "pull",
        help="download a model before it is served",
        usage="pensieve pull [MODEL] [FLAGS of serve]",
        description="Download a model, unless a server with these flags could not serve it here.",
        allow_abbrev=False,
    )
    pull.add_argument("name", nargs="?", metavar="MODEL", help="hub id; --model's default if none is given")
    models = commands.add_parser(
        "models",
        help="list the models on this machine",
        usage="pensieve models [FLAGS of serve]",
        description="List the models on this machine: their size, and the context that a server with these "
        "flags gives them, or why it does not serve them.",
        allow_abbrev=False,
    )
    doctor = commands.add_parser(
        "doctor",
        help="look at what a server needs on this machine",
        usage="pensieve doctor [--online] [FLAGS of serve]",
        description="Look at what a server with these flags needs on this machine: a line for each, with "
        "what to do. Ends with 1 where it would not work.",
        allow_abbrev=False,
    )
    doctor.add_argument("--online", action="store_true", help="ask the hub for the model as well")
    _add_serve_flags(pull, models, doctor)


def _add_serve_flags(*parsers: Parser) -> None:
    for parser in parsers:
        for config in CONFIGS:
            add_flags(parser, config)


def split_client_arguments(arguments: abc.Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the flags of `serve` and the client's words.

    The client's words begin at the first word that is neither a flag of this command nor a flag's value; a
    `--` in that place is dropped.
    """
    valued = {flag_name(field.name) for config in CONFIGS for field in dataclasses.fields(config)}
    place = 0
    while place < len(arguments):
        flag, equals, _ = arguments[place].partition("=")
        if flag in valued:
            place += 1 if equals else 2
        elif flag in (PRINT_ENV, "--help", "-h"):
            place += 1
        else:
            break
    rest = list(arguments[place:])
    return list(arguments[:place]), rest[1:] if rest[:1] == ["--"] else rest


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
