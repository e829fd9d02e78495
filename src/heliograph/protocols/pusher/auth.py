"""
The signatures of Pusher: of a subscription, a sign-in of a user, and an HTTP request.

Text is signed exactly as it is received: parsing and encoding it again would change the order of
keys and whitespace, and so the signature. Signatures are compared in constant time.

Sources: https://pusher.com/docs/channels/library_auth_reference/auth-signatures/ and
https://pusher.com/docs/channels/library_auth_reference/rest-api/#authentication
"""

import hashlib
import hmac
from collections.abc import Iterable
from functools import lru_cache
from operator import itemgetter


def sign(secret: bytes, text: str) -> str:
    """Return the lower-case hex HMAC-SHA256 of *text*."""
    # No correctly signed text has a lone surrogate; here, it must not raise an exception.
    return _signer(secret).sign(text.encode(errors="surrogatepass"))


def matches(expected: str, received: str) -> bool:
    """Compare two signatures in constant time."""
    return hmac.compare_digest(expected.encode(), received.encode(errors="surrogatepass"))


class Signer:
    """
    HMAC-SHA256 (RFC 2104) with one secret.

    The inner and the outer hash both begin with the secret. They are begun once, and copied for
    each message: that takes a third of the time of hmac.digest, and each publish needs a signature.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        key = secret if len(secret) <= _BLOCK_BYTES else hashlib.sha256(secret).digest()
        key = key.ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    def sign(self, message: bytes) -> str:
        """Return the lower-case hex signature of *message*."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.hexdigest()

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether *signature* is that of *message*; in constant time."""
        return hmac.compare_digest(self.sign(message).encode(), signature)


_BLOCK_BYTES = 64  # of SHA-256

_MD5 = hashlib.md5(usedforsecurity=False)
"""Copied for each body: a new hash takes twice as long, as OpenSSL searches for the algorithm."""


@lru_cache(maxsize=256)
def _signer(secret: bytes) -> Signer:
    return Signer(secret)  # secrets come from the configuration, so they are few


def is_checksum(received: bytes, body: bytes) -> bool:
    """Whether *received* is, in lower-case hex, the `body_md5` of *body*; in constant time."""
    checksum = _MD5.copy()
    checksum.update(body)
    return hmac.compare_digest(checksum.hexdigest().encode(), received)


def channel_string(socket_id: str, channel: str, channel_data: str | None) -> str:
    """
    Return the text that the signature of a subscription signs.

    *channel_data* is signed whenever the client sent it, also if empty or for a private channel.
    """
    if channel_data is None:
        return f"{socket_id}:{channel}"
    return f"{socket_id}:{channel}:{channel_data}"


def user_string(socket_id: str, user_data: str) -> str:
    """Return the text that the signature of a sign-in signs."""
    return f"{socket_id}::user::{user_data}"


def request_string(method: str, path: str, parameters: Iterable[tuple[str, str]]) -> str:
    """
    Return the text that the signature of an HTTP request signs.

    *parameters* are all that were received, percent-decoded, `auth_signature` excepted.
    They are sorted by name; repeated names keep their order in the query.
    """
    pairs = sorted([(name.lower(), value) for name, value in parameters], key=itemgetter(0))
    query = "&".join([f"{name}={value}" for name, value in pairs])
    return f"{method.upper()}\n{path}\n{query}"


def body_md5(body: bytes) -> str:
    """Return the correct `body_md5` of a request with *body*."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
