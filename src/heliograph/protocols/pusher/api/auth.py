"""
The authentication of the HTTP API: requests are signed with a secret of the app.

Source: https://pusher.com/docs/channels/library_auth_reference/rest-api/#authentication
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import unquote

from heliograph.errors import ApiError, echoed
from heliograph.node.node import Node
from heliograph.node.tenant import Tenant
from heliograph.protocols.pusher import auth

MAX_CLOCK_SKEW_S = 600

AUTH_PARAMETERS = frozenset(
    ("auth_key", "auth_timestamp", "auth_version", "auth_signature", "body_md5")
)

Parameters = Sequence[tuple[str, str]]

_FAST_QUERY = re.compile(
    rb"auth_key=([A-Za-z0-9_-]+)&auth_timestamp=([0-9]{1,10})&auth_version=1\.0"
    rb"&body_md5=(.{32})&auth_signature=(.{64})",
    re.DOTALL,
)
"""
A query with the parameters of authentication alone, in the order in which they are signed.

The characters of the two hashes are not checked: the hashes are compared with the correct ones.
"""

_SIGNATURE_BYTES = len(b"&auth_signature=") + 64


class Signers:
    """
    The apps of a node by their keys, each with the signer of the key's secret.

    *generation* is the node's `generation` at the last `renew`. A caller compares both, which takes
    no call, and calls `renew` if they differ.
    """

    __slots__ = ("by_key", "generation", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.by_key: dict[bytes, tuple[Tenant, auth.Signer]] = {}
        self.generation = 0
        self.renew()

    def renew(self) -> None:
        """Read the keys of the node again."""
        self.generation = self.node.generation
        self.by_key = {
            key.key.encode(): (tenant, auth.Signer(secret))
            for tenant in self.node.tenants()
            for key in tenant.app.keys
            if (secret := tenant.app.secret(key.key))
        }


def authenticate_fast(  # noqa: PLR0917 - one caller, on the hot path, where keywords cost
    signers: Signers, app_id: str | None, path: bytes, query: bytes, body: bytes, now_s: float
) -> Tenant | None:
    """
    Return the app that signed a POST in the form of most SDKs, in which *query* itself is signed.

    None if `authenticate` must be used: it accepts other forms, and raises the correct error.
    """
    usual = _FAST_QUERY.fullmatch(query)
    if usual is None:
        return None
    key, timestamp, checksum, signature = usual.groups()
    if signers.generation != signers.node.generation:
        signers.renew()
    found = signers.by_key.get(key)
    if found is None or abs(now_s - int(timestamp)) >= MAX_CLOCK_SKEW_S:
        return None
    tenant, signer = found
    app = tenant.app
    if (app.id != app_id and app_id is not None) or not app.enabled:
        return None
    signed = b"POST\n%b\n%b" % (path, query[:-_SIGNATURE_BYTES])
    if signer.signed(signed, signature) and auth.is_checksum(checksum, body):
        return tenant
    return None


def authenticate(
    node: Node,
    app_id: str | None,
    *,
    method: str,
    path: str,
    parameters: Parameters,
    body: bytes | None,
    now_s: float,
) -> Tenant:
    """
    Return the app that signed the request. Raises ApiError with Pusher's statuses and texts.

    *app_id* is that of the path, None if the path has none. *path* is as in the request line,
    *parameters* are percent-decoded, *now_s* is the wall clock. *body* is None if it has not been
    received yet: then everything else is checked. The protocol has no nonce, so a request can be
    repeated for ten minutes, by design.
    """
    given = dict(parameters)
    tenant = _signer(node, app_id, given)
    _check_freshness(given, now_s)
    _check_signature(tenant, given, method, path, parameters)
    if body is not None:
        _check_body(given, body)
    if not tenant.app.enabled:
        raise ApiError(403, "Application disabled")
    return tenant


def _signer(node: Node, app_id: str | None, given: dict[str, str]) -> Tenant:
    key = given.get("auth_key")
    if key is None:
        raise ApiError(401, "Missing parameter: auth_key")
    signer = node.tenant_of_key(key)
    if signer is None:
        raise ApiError(400, "Unknown auth_key")
    if app_id is not None and signer.app.id != app_id:
        if node.tenant(app_id) is None:
            raise ApiError(404, f"Unknown app_id {echoed(app_id)}")
        raise ApiError(401, "Unknown auth_key")
    return signer


def _check_freshness(given: dict[str, str], now_s: float) -> None:
    version = given.get("auth_version")
    if not version:
        raise ApiError(401, "Version required")
    if version != "1.0":
        raise ApiError(401, "Version not supported")
    stated = given.get("auth_timestamp")
    if not stated:
        raise ApiError(401, "Timestamp required")
    # Ten digits are enough until the year 2286; much longer numbers exceed the range of datetime.
    if not (stated.isascii() and stated.isdigit() and len(stated) <= 10):  # noqa: PLR2004
        raise ApiError(401, "Timestamp must be a number of seconds since 1970")
    timestamp = int(stated)
    if abs(now_s - timestamp) >= MAX_CLOCK_SKEW_S:
        raise ApiError(
            401,
            f"Timestamp expired: Given timestamp ({_iso(timestamp)}) not within"
            f" {MAX_CLOCK_SKEW_S}s of server time ({_iso(now_s)})",
        )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_signature(
    tenant: Tenant, given: dict[str, str], method: str, path: str, parameters: Parameters
) -> None:
    secret = tenant.app.secret(given["auth_key"])
    if secret is None:
        raise AssertionError("the app was found by this key")
    received = given.get("auth_signature", "")
    signed = [pair for pair in parameters if pair[0] != "auth_signature"]
    expected = auth.request_string(method, path, signed)
    if auth.matches(auth.sign(secret, expected), received):
        return
    # An SDK signs the path that the caller gave, and its HTTP library may escape it afterwards.
    unescaped = auth.request_string(method, unquote(path), signed)
    if unescaped != expected and auth.matches(auth.sign(secret, unescaped), received):
        return
    repeated = echoed(expected.replace("\n", "\\n"))
    raise ApiError(
        401,
        f'Invalid signature: you should have sent HmacSHA256Hex("{repeated}", your_secret_key),'
        f' but you sent "{echoed(received)}"',
    )


def _check_body(given: dict[str, str], body: bytes) -> None:
    stated = given.get("body_md5")
    if stated is None:
        if body:
            raise ApiError(401, "Missing parameter: body_md5")
    elif not auth.matches(auth.body_md5(body), stated):
        raise ApiError(401, "body_md5 does not match the request body")
