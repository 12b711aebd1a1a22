"""What the command makes of its flags, of its environment and of the machine, before a server starts."""

import resource
from typing import Any

import pytest

from pensieve.api.command.client_environment import base_url
from pensieve.api.command.command_line import make_parser
from pensieve.api.command.flags import UsageError, read_settings
from pensieve.api.command.platforms import few_files, unsupported
from pensieve.api.config import ServerConfig
from pensieve.engine.config import EngineConfig
from pensieve.scheduler.config import SchedulerConfig


def parse(*arguments: str) -> Any:
    return read_settings(make_parser().parse_args(["serve", *arguments]))


def test_defaults_are_the_configs_own() -> None:
    settings = parse()
    assert settings.engine == EngineConfig()
    assert settings.server == ServerConfig()
    assert settings.scheduler == SchedulerConfig()


def test_every_flag_reaches_its_field() -> None:
    settings = parse("--max-context", "4096", "--kv-cache-gb", "1.5", "--port", "80", "--max-batch", "7")
    assert settings.engine == EngineConfig(max_context=4096, kv_cache_gb=1.5)
    assert settings.server.port == 80
    assert settings.scheduler.max_batch == 7


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "x"],
        ["--port", "70000"],
        ["--log-level", "loud"],
        ["--max-batch", "0"],
        ["--max-context", "3"],
        ["--kv-cache-gb", "nan"],
        ["--kv-cache-gb", "-1"],
        ["--api-key", ""],
        ["--max", "3"],
        ["--host", "0.0.0.0"],
        ["model"],
    ],
)
def test_bad_flags_are_refused_by_name(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match=arguments[0]):
        parse(*arguments)


@pytest.mark.parametrize(
    ("system", "machine", "python", "words"),
    [
        ("Windows", "AMD64", (3, 12), "WSL 2"),
        ("Darwin", "x86_64", (3, 12), "Apple silicon"),
        ("FreeBSD", "amd64", (3, 12), "macOS and Linux"),
        ("Linux", "x86_64", (3, 10), "Python 3.11 to 3.13"),
        ("Linux", "x86_64", (3, 14), "Python 3.11 to 3.13"),
    ],
)
def test_unsupported_platforms_are_told_what_would_do(
    system: str, machine: str, python: tuple[int, int], words: str
) -> None:
    assert words in (unsupported(system, machine, python) or "")


def test_a_low_limit_of_open_files_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """mlx-lm raised an error that says nothing of files."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    assert few_files()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    assert not few_files()


def test_supported_platforms() -> None:
    for system, machine in (("Darwin", "arm64"), ("Linux", "x86_64"), ("Linux", "aarch64")):
        assert unsupported(system, machine, (3, 12)) is None


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:7777"),
        ("0.0.0.0", "http://127.0.0.1:7777"),
        ("::1", "http://[::1]:7777"),
        ("::", "http://[::1]:7777"),
        ("mac.local", "http://mac.local:7777"),
    ],
)
def test_the_url_is_one_that_a_client_here_can_use(host: str, url: str) -> None:
    assert base_url(host, 7777) == url


def test_the_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every user of the machine can read a process's arguments."""
    monkeypatch.setenv("PENSIEVE_API_KEY", "secret")
    assert parse().server.api_key == "secret"
    assert parse("--api-key", "other").server.api_key == "other"
    monkeypatch.setenv("PENSIEVE_API_KEY", "")
    assert parse().server.api_key is None
