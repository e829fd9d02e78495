"""
The server's certificate, which can be renewed while it serves.

Knows certificates and keys in files; who is served behind them is the caller's business.
"""

import ssl
from pathlib import Path
from typing import NoReturn

from heliograph.errors import ConfigError


class Certificate:
    """
    A certificate with its key, for every TLS connection that begins from now on.

    Connections take `context`, which hands each newcomer to the pair that was loaded last: what
    is open goes on with the one that it began with. Raises ConfigError for a pair that cannot be.
    """

    def __init__(self, certificate: str, key: str) -> None:
        self._pair = load(certificate, key)
        self.context = _context()
        # Called for every newcomer, whether it names a host or not.
        self.context.sni_callback = self._meet

    def renew(self, pair: ssl.SSLContext) -> None:
        """Show *pair*, which `load` returned, from now on."""
        self._pair = pair

    def _meet(
        self, newcomer: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _door: ssl.SSLContext
    ) -> None:
        newcomer.context = self._pair


def load(certificate: str, key: str) -> ssl.SSLContext:
    """Read a certificate, with its chain, and its key. Raises ConfigError that names the file."""
    context = _context()
    for option, path in (("ssl_cert", certificate), ("ssl_key", key)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"--{option}: cannot read {path}: {error.strerror}") from None
    try:
        _context().load_verify_locations(certificate)
    except ssl.SSLError:
        raise ConfigError(f"--ssl_cert: {certificate} is no certificate in PEM") from None

    def locked() -> NoReturn:
        # Without this, OpenSSL would ask at the terminal, and wait.
        raise ConfigError(f"--ssl_key: {key} is locked by a passphrase; store it without one")

    try:
        context.load_cert_chain(certificate, key, locked)
    except ssl.SSLError:
        raise ConfigError(
            f"--ssl_key: {key} is not the key of {certificate}, or not in PEM"
        ) from None
    return context


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
