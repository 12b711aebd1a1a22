"""Settings of the HTTP server; `pensieve serve` makes a flag of each field of ServerConfig."""

import re
import shlex
import shutil
from dataclasses import dataclass, field
from typing import Literal, get_args

from .. import DEFAULT_PORT

MediaPolicy = Literal["note", "refuse"]
ThinkingDefault = Literal["auto", "on", "off"]
LogLevel = Literal["debug", "info", "warning", "error"]
MetricsNames = Literal["pensieve", "vllm"]

HOST_PATTERN = re.compile(r"(\*\.)?[\w-]+(\.[\w-]+)*|\[[0-9a-fA-F:]+\]|\*")
ORIGIN_PATTERN = re.compile(r"[a-zA-Z][\w+.-]*://[^/\s]*|\*")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The server's address and key, who may use it, and how it answers by default."""

    host: str = field(default="127.0.0.1", metadata={"help": "address to listen on"})
    port: int = field(default=DEFAULT_PORT, metadata={"help": "port to listen on"})
    api_key: str | None = field(
        default=None,
        metadata={
            "help": "key that clients must send; in the variable PENSIEVE_API_KEY the list of processes does "
            "not show it (default: any key on loopback; elsewhere a key is required)",
            "variable": "PENSIEVE_API_KEY",
        },
    )
    api_keys_file: str | None = field(
        default=None,
        metadata={
            "help": "file of keys for several people, one `name key [limits]` a line: each has a cache of "
            "its own, and limits if it is to (docs/keys.md); read anew at SIGHUP"
        },
    )
    tls_cert: str | None = field(
        default=None,
        metadata={
            "help": "file of a certificate (PEM, with those that lead to it): the server speaks HTTPS alone"
        },
    )
    tls_key: str | None = field(
        default=None, metadata={"help": "file of the certificate's private key (PEM, without a password)"}
    )
    allow_host: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "name, besides localhost, under which clients may reach a server on loopback, such as "
            "host.docker.internal or *.local; repeatable"
        },
    )
    allow_origin: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "origin whose web pages or apps may use the server, such as http://localhost:3000 or "
            "app://obsidian.md; * for all; repeatable"
        },
    )
    thinking: ThinkingDefault = field(
        default="auto",
        metadata={
            "help": "on or off: whether the model thinks where a request does not say; auto: as the API or "
            "the model's template has it",
            "choices": get_args(ThinkingDefault),
        },
    )
    images: MediaPolicy = field(
        default="note",
        metadata={
            "help": "note or refuse: put a note in the place of pictures, sounds and PDFs, which the model "
            "cannot read, or refuse the request",
            "choices": get_args(MediaPolicy),
        },
    )
    search_command: str | None = field(
        default=None,
        metadata={
            "help": "program with arguments, run without a shell, which searches the web where a request has "
            "the tool web_search, as Claude Code's WebSearch does; it gets the query in place of {query}, "
            "or on its standard input, and prints JSON objects with title, url and text, or a text "
            "(default: such searches fail, and the model is told so)",
        },
    )
    history_mb: int = field(
        default=64,
        metadata={
            "help": "MB of memory for the tokens of answers: later prompts hold them as they were sampled, "
            "however a client has rewritten them; 0 renders each answer anew"
        },
    )
    metrics_names: MetricsNames = field(
        default="pensieve",
        metadata={
            "help": "vllm: /metrics has vLLM's names beside its own, for dashboards and alerts that were "
            "made for vLLM (deploy/README.md)",
            "choices": get_args(MetricsNames),
        },
    )
    log_level: LogLevel = field(
        default="info", metadata={"help": "debug, info, warning or error", "choices": get_args(LogLevel)}
    )

    @property
    def scheme(self) -> str:
        """Of the server's URL."""
        return "http" if self.tls_cert is None else "https"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in ("127.0.0.1", "localhost", "::1") or self.host.startswith("127.")

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError("--port must lie between 0 and 65535")
        if self.history_mb < 0:
            raise ValueError("--history-mb must not be negative")
        if self.api_key is not None and not self.api_key:
            raise ValueError("--api-key must not be empty")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key belong together")
        for name in self.allow_host:
            if not HOST_PATTERN.fullmatch(name):
                raise ValueError(f"--allow-host {name}: give a name without scheme and port, or *.NAME")
        for origin in self.allow_origin:
            if not ORIGIN_PATTERN.fullmatch(origin):
                raise ValueError(f"--allow-origin {origin}: give SCHEME://HOST, with its port if any, or *")
        if self.search_command is not None:
            _check_command(self.search_command)
        if not self.is_loopback and self.api_key is None and self.api_keys_file is None:
            raise ValueError(
                f"--host {self.host} can be reached from other machines: give --api-key or --api-keys-file"
            )


def _check_command(command: str) -> None:
    """Raise ValueError for a command without a program that can be run."""
    try:
        program = next(iter(shlex.split(command)), "")
    except ValueError as error:
        raise ValueError(f"--search-command: {error}".lower()) from error
    if shutil.which(program) is None:
        raise ValueError(f"--search-command: there is no program {program!r}")


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """When to send pings while nothing else is sent; the client gives up after 300 s of silence."""

    first_s: float = 0.8  # after the stream's start
    interval_s: float = 10.0
