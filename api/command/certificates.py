"""TLS of the server, and of commands that ask a server on this machine."""

import ssl
import urllib.request

from ... import PensieveError
from ..config import ServerConfig


class CertificateError(PensieveError):
    """The certificate or its key cannot be used."""


def check_certificate(config: ServerConfig) -> None:
    """Raise CertificateError where the server could not speak TLS with what it is given."""
    if config.tls_cert is None or config.tls_key is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.tls_cert, config.tls_key, password=_no_password)
    except OSError as error:  # of which SSLError is one
        flags = f"--tls-cert {config.tls_cert}, --tls-key {config.tls_key}"
        raise CertificateError(f"{flags}: {_why(error)}") from error


def end_of_validity(config: ServerConfig) -> float:
    """Return until when the server's certificate is valid, in seconds since 1970.

    A client and a server shake hands in memory, as ssl tells a certificate's dates to its peer alone. Raises
    CertificateError where they cannot, an end in the past included.
    """
    check_certificate(config)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(str(config.tls_cert), config.tls_key, password=_no_password)
    client = ssl.create_default_context(cafile=config.tls_cert)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (asking, answering, asking):  # hello; certificate; whether it is believed
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            raise CertificateError(f"--tls-cert {config.tls_cert}: {error.verify_message}") from error
    certificate = asking.getpeercert() or {}
    return ssl.cert_time_to_seconds(str(certificate["notAfter"]))


def open_directly(config: ServerConfig) -> urllib.request.OpenerDirector:
    """Return what opens URLs of the configured server, by no proxy: that could not reach this machine.

    A certificate that the flags name is trusted, whatever names it has, and no other. Raises CertificateError
    where it cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=config.tls_cert)
    except OSError as error:
        raise CertificateError(f"--tls-cert {config.tls_cert}: {_why(error)}") from error
    if config.tls_cert is not None:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it may be no root
        context.check_hostname = False  # a server of another machine's name is asked by 127.0.0.1
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    return urllib.request.build_opener(*handlers)


def _why(error: OSError) -> str | None:
    return error.strerror if isinstance(error, FileNotFoundError) else str(error)


def _no_password() -> str:
    """Refuse to ask for a password, which OpenSSL would do at the terminal."""
    raise ssl.SSLError("the key has a password")
