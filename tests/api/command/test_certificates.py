"""A server that speaks TLS, with a certificate that nobody else has signed."""

import shutil
import subprocess
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
import uvicorn

from pensieve.api.app import create_app
from pensieve.api.command.bounded_protocol import BoundedProtocol
from pensieve.api.command.certificates import CertificateError, check_certificate, open_directly
from pensieve.api.command.cli import main
from pensieve.api.command.client_environment import client_environment
from pensieve.api.command.doctor import check_keys, check_tls
from pensieve.api.command.launch import LaunchError, find_server
from pensieve.api.config import ServerConfig

from ...fakes import ByteTokenizer, FakeModel, ScriptedScheduler
from ..conftest import in_thread

OPENSSL = shutil.which("openssl")

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="there is no openssl to make a certificate with")


def make_certificate(folder: Path, days: int) -> ServerConfig:
    command = [OPENSSL or "", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", str(days), "-subj", "/CN=studio.local"]
    command += ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return ServerConfig(tls_cert=f"{folder}/cert.pem", tls_key=f"{folder}/key.pem")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    return make_certificate(tmp_path_factory.mktemp("tls"), days=2)


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


def test_the_doctor_says_until_when_the_certificate_is_valid(config: ServerConfig, tmp_path: Path) -> None:
    days = (date.today(), date.today() + timedelta(days=1))
    assert check_tls(ServerConfig()) == []
    [soon] = check_tls(config)
    assert soon.verdict == "note"
    assert any(f"valid until {day + timedelta(days=2)}" in soon.text for day in days)
    long = make_certificate(tmp_path, days=90)
    [found] = check_tls(long)
    assert found.verdict == "ok"
    assert any(f"valid until {day + timedelta(days=90)}" in found.text for day in days)
    (tmp_path / "key.pem").chmod(0o644)
    [found] = check_tls(long)
    assert found.verdict == "note"
    assert "chmod 600" in found.text
    [found] = check_tls(ServerConfig(tls_cert=config.tls_cert, tls_key=long.tls_key))
    assert found.verdict == "bad"
    assert "mismatch" in found.text.lower()


def test_a_certificate_that_has_ended_is_bad(config: ServerConfig, tmp_path: Path) -> None:
    """Made by `openssl ca`, which alone lets both dates be chosen."""
    request = [OPENSSL or "", "req", "-new", "-key", str(config.tls_key), "-subj", "/CN=studio.local"]
    subprocess.run([*request, "-out", "request.pem"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "index.txt").touch()
    (tmp_path / "ca.cnf").write_text(
        "[ca]\ndefault_ca=x\n[x]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\n"
        "default_md=sha256\npolicy=p\nemail_in_dn=no\n[p]\ncommonName=supplied\n"
    )
    command = [OPENSSL or "", "ca", "-batch", "-selfsign", "-config", "ca.cnf", "-keyfile"]
    command += [str(config.tls_key), "-in", "request.pem", "-out", "old.pem", "-notext"]
    command += ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    [found] = check_tls(ServerConfig(tls_cert=f"{tmp_path}/old.pem", tls_key=config.tls_key))
    assert found.verdict == "bad"
    assert "expired" in found.text


def test_the_doctor_reads_the_file_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    config = ServerConfig(api_keys_file=str(path))
    assert check_keys(ServerConfig()) == []
    [found] = check_keys(config)
    assert found.verdict == "bad"
    assert "No such file" in found.text
    path.write_text("bob sk-bob-12345\nalice sk-alice-123 shared\n")
    path.chmod(0o600)
    [found] = check_keys(config)
    assert (found.verdict, found.text) == ("ok", f"2 of {path}: alice, bob")
    path.chmod(0o644)
    [found] = check_keys(config)
    assert found.verdict == "note"
    path.write_text("bob sk-bob-12345\nbob other-key-1234\n")
    [found] = check_keys(config)
    assert found.verdict == "bad"
    assert "the same name" in found.text
    assert "sk-bob" not in found.text
