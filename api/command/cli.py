"""The `pensieve` command: starts the server, Claude Code or the bench; reports every failure in one line.

Flags are made from the fields of the frozen config classes, so that a default is written once.
"""

import argparse
import dataclasses
import os
import platform
import sys
import threading
import traceback
from collections import abc
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from ... import PensieveError, __version__
from ...bench.config import BenchConfig, TraceConfig
from ...engine.config import EngineConfig
from ...scheduler.config import SchedulerConfig
from ..config import ServerConfig

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # as shells count it: 128 + SIGINT

NUM_FILES = 4096  # mlx-lm makes this the hard limit, and fails where it would have to raise it

CONFIGS = (EngineConfig, ServerConfig, SchedulerConfig)
PRINT_ENV = "--print-env"
BENCH_CONFIGS = (TraceConfig, BenchConfig)


class UsageError(PensieveError):
    """The command line is wrong."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of `pensieve serve`, as the command line gives them."""

    engine: EngineConfig
    server: ServerConfig
    scheduler: SchedulerConfig


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
    parser.add_argument("--version", action="version", version=f"pensieve {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
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
    for config in CONFIGS:
        add_flags(serve, config)
        add_flags(client, config)
    fleet = (
        "Behave as a fleet of Claude Code sessions towards a server that runs already, and report its times."
    )
    bench = commands.add_parser(
        "bench", help="measure a server with a fleet of sessions", description=fleet, allow_abbrev=False
    )
    for bench_config in BENCH_CONFIGS:
        add_flags(bench, bench_config)
    return parser


def add_flags(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    """Add a flag for each field of a config class: type from its annotation, help from its metadata."""
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        text = field.metadata["help"]
        if field.default not in (None, ()):
            text += f" (default: {field.default})"
        kind = flag_type(hints[field.name])
        choices = field.metadata.get("choices")
        parser.add_argument(
            flag_name(field.name),
            type=kind,
            action="append" if field.default == () else "store",
            default=None if field.default == () else field.default,  # argparse appends to a copy
            choices=choices,
            metavar=None if choices else kind.__name__.upper(),
            help=text.replace("%", "%%"),
        )


def flag_name(field_name: str) -> str:
    """Return the flag of a config's field."""
    return "--" + field_name.replace("_", "-")


def flag_type(annotation: Any) -> type[Any]:
    """Return the type of a flag's value: `int` for `int | None`, `str` for a Literal or a tuple of texts."""
    if isinstance(annotation, UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is Literal or annotation == tuple[str, ...]:
        return str
    assert annotation in (int, float, str), f"no flag can be made of {annotation}"
    return annotation  # type: ignore[no-any-return]  # just asserted to be one of three types


def read_settings(namespace: argparse.Namespace) -> Settings:
    """Build the configs from parsed flags. Raises UsageError when a config refuses a flag's value."""
    try:
        return Settings(
            read_config(EngineConfig, namespace),
            read_config(ServerConfig, namespace),
            read_config(SchedulerConfig, namespace),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def read_config(config: type[T], namespace: argparse.Namespace) -> T:
    """Build one config from parsed flags, and from the environment where a field names a variable.

    Raises ValueError when the config refuses a value.
    """
    values = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # a dataclass
        value = getattr(namespace, field.name)
        if value is None and "variable" in field.metadata:
            value = os.environ.get(field.metadata["variable"]) or None
        values[field.name] = tuple(value or ()) if field.default == () else value
    return config(**values)


def unsupported(system: str, machine: str, python: tuple[int, int]) -> str | None:
    """Return why MLX cannot run here, and what to do instead; None where it can run."""
    if system == "Windows":
        return "Windows is not supported by MLX: run Pensieve in WSL 2 (Linux, with an NVIDIA GPU or the CPU)"
    if system == "Darwin" and machine != "arm64":
        return (
            "MLX needs a Mac with Apple silicon and an arm64 Python; this one is for Intel: use Linux instead"
        )
    if system not in ("Darwin", "Linux"):
        return f"MLX runs on macOS and Linux, not on {system}"
    if not (3, 11) <= python < (3, 14):
        return f"Python 3.11 to 3.13 is needed, this is {python[0]}.{python[1]}"
    return None


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
    namespace, unknown = make_parser().parse_known_args(arguments)
    if unknown:
        raise UsageError(
            f"unrecognized arguments: {' '.join(unknown)} (see pensieve {namespace.command} --help)"
        )
    if namespace.command == "bench":
        _bench(namespace)
    else:
        _serve(read_settings(namespace))


def _bench(namespace: argparse.Namespace) -> None:
    try:
        trace, config = read_config(TraceConfig, namespace), read_config(BenchConfig, namespace)
    except ValueError as error:
        raise UsageError(str(error)) from error
    # Imported here: a server never needs it.
    from ...bench.main import bench

    bench(trace, config)


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


def few_files() -> bool:
    """Return whether the limit of open files is lower than the one that mlx-lm sets when it is imported."""
    # Imported here: Windows does not have it.
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return limit != resource.RLIM_INFINITY and limit < NUM_FILES


def _serve(settings: Settings) -> None:
    problem = unsupported(platform.system(), platform.machine(), sys.version_info[:2])
    if problem is not None:
        raise UsageError(problem)
    if few_files():
        raise UsageError(f"mlx-lm needs {NUM_FILES} open files: raise the hard limit (ulimit -Hn)")
    # Imported here, because it imports MLX: --help must be quick, and must work where MLX does not.
    try:
        from .serve import serve
    except ImportError as error:
        if not (error.name or "").startswith("mlx"):
            raise
        raise UsageError(f"MLX cannot be imported ({error}): install with `make install`") from error
    serve(settings.engine, settings.server, settings.scheduler)
