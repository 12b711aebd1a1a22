"""A server that speaks TLS, with a certificate that nobody else has signed."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from pensieve.api.app import create_app
from pensieve.api.command.bounded_protocol import BoundedProtocol
from pensieve.api.command.certificates import CertificateError, check_certificate, open_directly
from pensieve.api.command.cli import main
from pensieve.api.command.client_environment import client_environment
from pensieve.api.command.launch import LaunchError, find_server
from pensieve.api.config import ServerConfig

from ...fakes import ByteTokenizer, FakeModel, ScriptedScheduler
from ..conftest import in_thread

OPENSSL = shutil.which("openssl")

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="there is no openssl to make a certificate with")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    folder = tmp_path_factory.mktemp("tls")
    command = [OPENSSL or "", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=studio.local", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return ServerConfig(tls_cert=f"{folder}/cert.pem", tls_key=f"{folder}/key.pem")


@pytest.fixture
def port(config: ServerConfig) -> Iterator[int]:
    app = create_app(config, FakeModel(), ByteTokenizer(), ScriptedScheduler())
    settings = uvicorn.Config(
        app,
        port=0,
        http=BoundedProtocol,
        log_level="critical",
        lifespan="off",
        ssl_certfile=config.tls_cert,
        ssl_keyfile=config.tls_key,
    )
    with in_thread(uvicorn.Server(settings)) as port:
        yield port


def test_commands_trust_the_certificate_that_is_named_and_no_other(
    config: ServerConfig, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--port", str(port), "--tls-cert", str(config.tls_cert), "--tls-key", str(config.tls_key)]
    assert main(["sessions", *flags]) == 0
    assert capsys.readouterr().out == "no session has sent a request\n"
    named = ServerConfig(port=port, tls_cert=config.tls_cert, tls_key=config.tls_key)
    running = find_server(named)
    assert running is not None
    assert running.url == f"https://127.0.0.1:{port}"
    assert client_environment(running, None, {})["NODE_EXTRA_CA_CERTS"] == config.tls_cert
    with pytest.raises(LaunchError):
        find_server(ServerConfig(port=port))  # in plain words


def test_what_is_no_certificate_is_said_in_a_line(config: ServerConfig, tmp_path: Path) -> None:
    check_certificate(config)
    with pytest.raises(CertificateError, match="No such file"):
        check_certificate(ServerConfig(tls_cert=f"{tmp_path}/none", tls_key=config.tls_key))
    with pytest.raises(CertificateError, match=r"--tls-cert .*/none: No such file"):
        open_directly(ServerConfig(tls_cert=f"{tmp_path}/none", tls_key=config.tls_key))
    with pytest.raises(CertificateError, match="--tls-key"):
        check_certificate(ServerConfig(tls_cert=config.tls_cert, tls_key=config.tls_cert))
    with pytest.raises(ValueError, match="belong together"):
        ServerConfig(tls_cert=config.tls_cert)
