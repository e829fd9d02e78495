"""
The server's certificate, which can be renewed while the server runs.

Reads certificates and keys from files. It does not depend on the connections that use them.
"""

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from heliograph.errors import ConfigError


class Certificate:
    """
    A certificate with its key, for all new TLS connections.

    Connections use `context`, which gives each new connection the pair that was loaded last. Open
    connections keep the pair with which they began. Raises ConfigError for an invalid pair.
    """

    def __init__(self, certificate: str, key: str) -> None:
        self._pair = load(certificate, key)
        self.context = _context()
        # Called for every new connection, also without a server name (SNI).
        self.context.sni_callback = self._meet

    def renew(self, pair: ssl.SSLContext) -> None:
        """Use *pair*, which `load` returned, for all new connections."""
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
        raise ConfigError(f"--ssl_cert: {certificate} is not a certificate in PEM format") from None

    def locked() -> NoReturn:
        # Without this, OpenSSL would ask for the passphrase at the terminal, and block.
        raise ConfigError(f"--ssl_key: {key} is protected by a passphrase; store it without one")

    try:
        context.load_cert_chain(certificate, key, locked)
    except ssl.SSLError:
        raise ConfigError(
            f"--ssl_key: {key} is not the key of {certificate}, or not in PEM format"
        ) from None
    return context


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION  # costly for the server, cheap for a client
    return context


# -- Validity ------------------------------------------------------------------------------

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

# DER tags of a certificate's fields (RFC 5280, 4.1).
_VERSION, _UTC_TIME = 0xA0, 0x17
_VALIDITY = 3
"""Index of the validity after the version: serial number, algorithm and issuer come before it."""


def lifetime(path: str) -> tuple[datetime, datetime]:
    """
    Return the period in which all certificates of a chain are valid, which `load` has read.

    Parsed here, because the ssl module only returns the dates of CA certificates, and a server's
    certificate is none. Raises ConfigError if the file has no certificate in the usual PEM form,
    such as a file with only OpenSSL's own "trusted" certificates.
    """
    text = Path(path).read_text(encoding="latin-1")
    each = [_validity(ssl.PEM_cert_to_DER_cert(pem)) for pem in _PEM.findall(text)]
    if not each:
        raise ConfigError(f"--ssl_cert: {path} has no readable dates: BEGIN CERTIFICATE is missing")
    return max(begin for begin, _ in each), min(end for _, end in each)


def _validity(certificate: bytes) -> tuple[datetime, datetime]:
    ((_, whole),) = _elements(certificate)
    _, signed = next(_elements(whole))
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    begin, end = (_time(tag, content.decode()) for tag, content in _elements(fields[_VALIDITY]))
    return begin, end


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Return tag and content of each element in *content*."""
    at = 0
    while at < len(content):
        tag, size = content[at], content[at + 1]
        at += 2
        if size & 0x80:
            width = size & 0x7F
            size = int.from_bytes(content[at : at + width])
            at += width
        yield tag, content[at : at + size]
        at += size


def _time(tag: int, text: str) -> datetime:
    if tag == _UTC_TIME:  # two digits of the year; RFC 5280, 4.1.2.5.1
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
