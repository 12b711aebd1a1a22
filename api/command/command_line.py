"""The command line of `pensieve`: its subcommands with their flags."""

import argparse
import dataclasses
from collections import abc
from typing import NoReturn

import shtab

from ... import __version__
from ...bench.config import BenchConfig, ReplayConfig, TraceConfig
from ..config import ServerConfig
from .flags import CONFIGS, UsageError, add_flags, flag_name
from .platforms import installed

PRINT_ENV = "--print-env"
BENCH_CONFIGS = (TraceConfig, ReplayConfig, BenchConfig)


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print its usage and exit with 2."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message} (see {self.prog} --help)")


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
    _add_sessions_command(commands)
    completion = commands.add_parser(
        "completion",
        help="print what completes this command in a shell",
        description='Print a script that completes this command: `eval "$(pensieve completion bash)"`.',
    )
    completion.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    return parser


def _add_sessions_command(commands: "argparse._SubParsersAction[Parser]") -> None:
    sessions = commands.add_parser(
        "sessions",
        help="show what the sessions of a running server do",
        usage="pensieve sessions [drop ID] [--watch] [--json] [FLAGS of serve]",
        description="Show what the sessions of the server at --host and --port do; `drop ID` frees the KV of "
        "one. An ID may be a session's number, or the beginning of its name.",
        allow_abbrev=False,
    )
    sessions.add_argument("action", nargs="?", choices=("drop",), help="free a session's KV")
    sessions.add_argument("name", nargs="?", metavar="ID", help="of the session")
    sessions.add_argument("--watch", action="store_true", help="show them anew each second")
    sessions.add_argument("--json", action="store_true", help="print what the server says, as JSON")
    add_flags(sessions, ServerConfig)


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
