"""
Who may use the HTTP API: every check, cold and through the fast path once it is warm.

A server that has served a publisher knows its path and takes `authenticate_fast`; one that has
not takes `authenticate`. Both must answer the same, to the letter.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.config.apps import App, AppKey, Apps
from heliograph.engine.base import Engine
from heliograph.engine.memory import MemoryEngine
from heliograph.errors import ApiError
from heliograph.net.pages import Pages
from heliograph.node.node import Node
from heliograph.node.tenant import Tenant
from heliograph.protocols.pusher import auth
from heliograph.protocols.pusher.api import routes as routes_module
from heliograph.protocols.pusher.api.auth import (
    MAX_CLOCK_SKEW_S,
    Signers,
    authenticate,
    authenticate_fast,
)
from heliograph.protocols.pusher.api.routes import MAX_REMEMBERED_PATH, MAX_REMEMBERED_PATHS, Routes
from heliograph.protocols.pusher.endpoint import (
    MAX_PARAMETERS,
    query_parameters,
    requested_app,
)
from heliograph.wire.http import Request
from heliograph.wire.responses import Response
from tests.unit.test_session import FakeTiming

NOW = 1_800_000_000.25
BODY = json.dumps({"name": "n", "channel": "c", "data": "x"}).encode()

OURS = App(id="1", name="ours", keys=(AppKey("key", "secret"), AppKey("second", "of-second")))
THEIRS = App(id="2", name="theirs", keys=(AppKey("their-key", "their-secret"),))
SWITCHED_OFF = App(id="3", name="off", keys=(AppKey("off-key", "off-secret"),), enabled=False)
SECRETS = {key.key: key.secret.encode() for app in (OURS, THEIRS, SWITCHED_OFF) for key in app.keys}


@dataclass(frozen=True, slots=True)
class Post:
    """A POST as most SDKs make it; None leaves a parameter out, and "right" is what should be."""

    path: str = "/apps/1/events"
    key: str | None = "key"
    timestamp: str | None = str(int(NOW))
    version: str | None = "1.0"
    md5: str | None = "right"
    secret: bytes | None = None
    """What it is signed with; None for that of the key."""
    signature: str | None = "right"
    body: bytes = BODY
    signed_body: bytes | None = None
    """Of which `body_md5` is; None for the one that is sent."""
    signed_path: str | None = None
    extra: Sequence[tuple[str, str]] = ()

    def request(self) -> Request:
        pairs = [
            ("auth_key", self.key),
            ("auth_timestamp", self.timestamp),
            ("auth_version", self.version),
            ("body_md5", self._md5()),
            *self.extra,
        ]
        given = [(name, value) for name, value in pairs if value is not None]
        text = auth.request_string("POST", self.signed_path or self.path, given)
        secret = self.secret or SECRETS.get(self.key or "", b"nobody's")
        signature = auth.sign(secret, text) if self.signature == "right" else self.signature
        if signature is not None:
            given.append(("auth_signature", signature))
        query = "&".join(f"{name}={value}" for name, value in given).encode()
        path = self.path.encode()
        target = path + b"?" + query
        return Request("POST", target, path, query, "1.1", [(b"host", b"a")], True, self.body)

    def _md5(self) -> str | None:
        if self.md5 != "right":
            return self.md5
        return auth.body_md5(self.body if self.signed_body is None else self.signed_body)


class Server:
    """Nodes, routes and a clock; what is asked of it is answered at once."""

    def __init__(
        self,
        *apps: App,
        prefix: str = "",
        now_s: Callable[[], float] = lambda: NOW,
        engine: Engine | None = None,
    ) -> None:
        numbers = iter(range(1, 1000))
        self.node = Node(
            Apps(list(apps or (OURS, THEIRS, SWITCHED_OFF))),
            engine or MemoryEngine(lambda: 0.0, wall=lambda: 0.0, epoch="e"),
            FakeTiming(),
            lambda _bits: next(numbers),
        )
        self.routes = Routes(
            self.node, prefix=prefix, now_s=now_s, otherwise=Pages(prefix, lambda: "")
        )

    def ask(self, post: Post | Request) -> tuple[int, bytes]:
        answer = self.routes.handle(post.request() if isinstance(post, Post) else post)
        assert isinstance(answer, Response)
        return answer.status, answer.body

    def warm(self, *posts: Post) -> "Server":
        """Serve good requests first, so that what can be remembered is."""
        for post in posts or (Post(), Post(path="/apps/2/events", key="their-key")):
            assert self.ask(post) == (200, b"{}")
        return self


REFUSED = {
    "no key": (Post(key=None), 401, "Missing parameter: auth_key"),
    "an unknown key": (Post(key="nobody"), 400, "Unknown auth_key"),
    "another app's key": (Post(key="their-key"), 401, "Unknown auth_key"),
    "another app's path": (
        Post(path="/apps/2/events"),
        401,
        "Unknown auth_key",
    ),
    "no app's path": (Post(path="/apps/77/events"), 404, "Unknown app_id 77"),
    "an app that is switched off": (
        Post(path="/apps/3/events", key="off-key"),
        403,
        "Application disabled",
    ),
    "no version": (Post(version=None), 401, "Version required"),
    "an empty version": (Post(version=""), 401, "Version required"),
    "another version": (Post(version="1.1"), 401, "Version not supported"),
    "a version that begins so": (Post(version="1.00"), 401, "Version not supported"),
    "no timestamp": (Post(timestamp=None), 401, "Timestamp required"),
    "an empty timestamp": (Post(timestamp=""), 401, "Timestamp required"),
    "a timestamp in words": (
        Post(timestamp="now"),
        401,
        "Timestamp must be a number of seconds since 1970",
    ),
    "a timestamp of eleven digits": (
        Post(timestamp="0" + str(int(NOW))),
        401,
        "Timestamp must be a number of seconds since 1970",
    ),
    "a timestamp of other digits": (
        Post(timestamp="١٨٠٠٠٠٠٠٠٠"),
        401,
        "Timestamp must be a number of seconds since 1970",
    ),
    "a negative timestamp": (
        Post(timestamp="-1"),
        401,
        "Timestamp must be a number of seconds since 1970",
    ),
    "a timestamp of long ago": (
        Post(timestamp="1799999400"),
        401,
        "Timestamp expired: Given timestamp (2027-01-15T07:50:00Z) not within 600s of server"
        " time (2027-01-15T08:00:00Z)",
    ),
    "a timestamp to come": (
        Post(timestamp="1800000601"),
        401,
        "Timestamp expired: Given timestamp (2027-01-15T08:10:01Z) not within 600s of server"
        " time (2027-01-15T08:00:00Z)",
    ),
    "another body": (
        Post(signed_body=BODY.replace(b'"x"', b'"y"')),
        401,
        "body_md5 does not match the request body",
    ),
    "a body that is longer": (
        Post(signed_body=BODY, body=BODY + b" "),
        401,
        "body_md5 does not match the request body",
    ),
    "a checksum in capitals": (
        Post(md5=auth.body_md5(BODY).upper()),
        401,
        "body_md5 does not match the request body",
    ),
    "no checksum": (Post(md5=None), 401, "Missing parameter: body_md5"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_every_refusal_of_a_signed_post(what: str, warm: bool) -> None:
    post, status, text = REFUSED[what]
    server = Server().warm() if warm else Server()
    assert server.ask(post) == (status, text.encode() + b"\n")
    assert server.ask(post) == (status, text.encode() + b"\n")


NOT_SIGNED = {
    "another secret": Post(secret=b"wrong"),
    "another app's secret": Post(secret=b"their-secret"),
    "the secret of another key": Post(secret=b"of-second"),
    "a signature in capitals": Post(
        signature=auth.sign(b"secret", "POST\n/apps/1/events\n").upper()
    ),
    "zeros": Post(signature="0" * 64),
    "no signature": Post(signature=None),
    "an empty signature": Post(signature=""),
    "a signature of another path": Post(signed_path="/apps/1/batch_events"),
    "a signature of another app's path": Post(signed_path="/apps/2/events"),
}


@pytest.mark.parametrize("what", NOT_SIGNED)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_what_is_not_signed_with_the_secret_of_its_key_is_refused(what: str, warm: bool) -> None:
    server = Server().warm() if warm else Server()
    status, body = server.ask(NOT_SIGNED[what])
    assert status == 401
    assert body.startswith(b"Invalid signature: you should have sent HmacSHA256Hex(")
    assert (status, body) == Server().ask(NOT_SIGNED[what])


@pytest.mark.parametrize("field", ["auth_key", "auth_timestamp", "auth_version", "body_md5"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_every_parameter_is_signed(field: str, warm: bool) -> None:
    """Another value that would do, were it signed."""
    server = Server().warm() if warm else Server()
    good = Post().request()
    values = dict(query_parameters(good.query))
    others = {
        "auth_key": "second",
        "auth_timestamp": str(int(NOW) - 1),
        "auth_version": "1.0&auth_version=1.0",
        "body_md5": auth.body_md5(b"{}"),
    }
    changed = good.query.replace(
        f"{field}={values[field]}".encode(), f"{field}={others[field]}".encode()
    )
    assert changed != good.query
    good.query = changed
    if field == "body_md5":
        good.body = b"{}"
    status, body = server.ask(good)
    assert status == 401
    assert body.startswith(b"Invalid signature")


@pytest.mark.parametrize(("warm"), [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("now", [1_800_000_000.0, 1_800_000_000.5])
def test_a_timestamp_is_good_for_less_than_ten_minutes_both_ways(now: float, warm: bool) -> None:
    clock = [NOW]
    server = Server(now_s=lambda: clock[0])
    if warm:
        server.warm()
    clock[0] = now
    accepted = [
        offset
        for offset in (-601, -600, -599, 0, 599, 600, 601)
        if server.ask(Post(timestamp=str(1_800_000_000 + offset)))[0] == 200
    ]
    # To the half second, too: nothing is rounded.
    assert accepted == ([-599, 0, 599] if now == 1_800_000_000.0 else [-599, 0, 599, 600])
    assert MAX_CLOCK_SKEW_S == 600


def test_a_body_needs_no_checksum_where_there_is_none() -> None:
    query = (("name", "n"), ("channel", "c"), ("data", "x"))
    assert Server().ask(Post(body=b"", md5=None, extra=query)) == (200, b"{}")
    assert Server().ask(Post(body=b"", extra=query)) == (200, b"{}")
    assert Server().ask(Post(body=b"", md5="0" * 32, extra=query))[0] == 401


def test_a_signature_of_the_path_before_it_was_escaped_is_good() -> None:
    path = "/apps/1/users/a%20b/terminate_connections"
    post = Post(path=path, body=b"", md5=None)
    assert Server().ask(post) == (200, b"{}")
    assert Server().ask(replace(post, signed_path="/apps/1/users/a b/terminate_connections")) == (
        200,
        b"{}",
    )
    assert Server().ask(replace(post, signed_path="/apps/1/users/ab/terminate_connections"))[0] == (
        401
    )


def test_what_is_signed_for_an_app_that_is_switched_off_is_no_failure_of_a_signature(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="heliograph")
    server = Server()
    assert server.ask(Post(path="/apps/3/events", key="off-key"))[0] == 403
    assert [one for one in caplog.messages if "an API request was refused" in one] == []
    assert server.ask(Post(path="/apps/1/events", secret=b"wrong"))[0] == 401
    assert caplog.messages == ["app 1: an API request was refused: Invalid signature"]


def test_the_log_repeats_little_of_what_a_publisher_sent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="heliograph")
    body = json.dumps({"name": "n", "channel": "!" * 5000, "data": "x"}).encode()
    for server in (Server(), Server().warm()):
        caplog.clear()
        assert server.ask(Post(body=body))[0] == 400
        (line,) = caplog.messages
        assert "a signed request was refused: 400 Invalid channel name: !!!" in line
        assert len(line) < 300


# -- What changes while the path is known ----------------------------------------------------


def reconfigured(change: Callable[[Node], object]) -> tuple[Server, Server]:
    """A server whose apps changed once it was warm, and one that was like that from the start."""
    warm, cold = Server().warm(), Server()
    change(warm.node)
    change(cold.node)
    return warm, cold


CHANGES: dict[str, tuple[Sequence[App], int]] = {
    "the app is switched off": ((replace(OURS, enabled=False), THEIRS), 403),
    "the app was removed": ((THEIRS,), 400),
    "the key was removed": ((replace(OURS, keys=OURS.keys[1:]), THEIRS), 400),
    "the key is another app's": (
        (replace(OURS, keys=OURS.keys[1:]), replace(THEIRS, keys=OURS.keys[:1])),
        401,
    ),
    "the key is another app's and the app gone": ((replace(THEIRS, keys=OURS.keys[:1]),), 404),
    "the key has another secret": ((replace(OURS, keys=(AppKey("key", "new"),)), THEIRS), 401),
    "a limit is another": ((replace(OURS, max_event_name_length=0), THEIRS), 200),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_configured_anew_holds_for_publishers_that_are_known(what: str) -> None:
    apps, status = CHANGES[what]
    warm, cold = reconfigured(lambda node: node.configure(Apps(list(apps))))
    answer = warm.ask(Post())
    assert answer[0] == status
    assert answer == cold.ask(Post())


def test_a_publisher_that_is_known_is_held_to_its_rate() -> None:
    limited = replace(OURS, max_publishes_per_second=2)
    warm, cold = Server(limited), Server(limited)
    assert [warm.ask(Post())[0] for _ in range(4)] == [200, 200, 429, 429]
    tenant = cold.node.tenant("1")
    assert tenant is not None
    tenant.admit_publishes(2)
    assert warm.routes.handle(Post().request()) == cold.routes.handle(Post().request())


@pytest.mark.parametrize(
    "body",
    [
        {"name": "pusher:x", "channel": "c", "data": "x"},
        {"name": "n", "channel": "a b", "data": "x"},
        {"name": "n", "channel": "c"},
        {"name": "n", "channel": "c", "data": "x" * 10241},
        {"name": 5, "channel": "c", "data": "x"},
        {"name": "n", "channels": [], "data": "x"},
        {"name": "n", "channel": "c", "data": "x", "info": "colour"},
        [],
        "",
    ],
    ids=str,
)
def test_known_publishers_are_answered_what_is_wrong_with_an_event(body: Any) -> None:
    post = Post(body=json.dumps(body).encode() if body != "" else b"")
    warm, cold = Server().warm().ask(post), Server().ask(post)
    assert warm == cold
    assert 400 <= warm[0] < 500


def test_the_path_that_is_known_is_that_of_posts() -> None:
    server = Server().warm()
    request = Post().request()
    for method in ("GET", "PUT", "HEAD"):
        request.method = method
        assert server.ask(request)[0] == 405


def test_a_path_that_was_only_read_is_not_known() -> None:
    server = Server()
    request = Post(path="/apps/1/channels", body=b"", md5=None).request()
    request.method = "GET"
    request.query = sign_get(request.path)
    assert server.ask(request) == (200, b'{"channels":{}}')
    assert server.routes._posts == {}
    assert server.ask(Post(path="/apps/1/channels"))[0] == 405


def sign_get(path: bytes) -> bytes:
    pairs = [("auth_key", "key"), ("auth_timestamp", str(int(NOW))), ("auth_version", "1.0")]
    signature = auth.sign(b"secret", auth.request_string("GET", path.decode(), pairs))
    signed = [*pairs, ("auth_signature", signature)]
    return "&".join(f"{name}={value}" for name, value in signed).encode()


# -- The fast path is taken, and remembers little --------------------------------------------


@pytest.mark.interpreted
def test_a_known_publisher_is_let_in_by_the_fast_path_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server().warm()

    def never(*_arguments: object, **_options: object) -> Tenant:
        raise AssertionError("the slow path was taken")

    monkeypatch.setattr(routes_module, "authenticate", never)
    assert server.ask(Post()) == (200, b"{}")


def test_what_no_secret_signed_is_not_remembered() -> None:
    server = Server()
    for post in (
        Post(secret=b"wrong"),
        Post(timestamp="1"),
        *[one for one, *_ in REFUSED.values()],
    ):
        server.ask(post)
    assert server.routes._posts == {}


def test_few_and_short_paths_are_remembered() -> None:
    server = Server()
    for number in range(MAX_REMEMBERED_PATHS + 3):
        path = f"/apps/1/users/{number}/terminate_connections"
        server.warm(Post(path=path, body=b"", md5=None))
        assert 1 <= len(server.routes._posts) <= MAX_REMEMBERED_PATHS
    beside = len("/apps/1/users//terminate_connections")
    for length, kept in ((MAX_REMEMBERED_PATH, True), (MAX_REMEMBERED_PATH + 1, False)):
        path = f"/apps/1/users/{'x' * (length - beside)}/terminate_connections"
        server.warm(Post(path=path, body=b"", md5=None))
        assert (path.encode() in server.routes._posts) is kept


def test_long_paths_that_strangers_ask_for_are_found_and_not_remembered() -> None:
    remembered = routes_module._endpoint
    remembered.cache_clear()
    path = f"/apps/1/channels/{'x' * MAX_REMEMBERED_PATH}/events"
    assert Server().ask(Post(path=path, key=None)) == (401, b"Missing parameter: auth_key\n")
    assert remembered.cache_info().currsize == 0
    Server().ask(Post(key=None))
    assert remembered.cache_info().currsize == 1


def test_a_prefix_is_no_part_of_what_a_known_publisher_signs() -> None:
    server = Server(prefix="/ws")
    good = Post(path="/ws/apps/1/events", signed_path="/apps/1/events")
    assert [server.ask(good) for _ in range(2)] == [(200, b"{}")] * 2
    assert server.ask(replace(good, signed_path=None))[0] == 401
    assert server.ask(Post())[0] == 404


# -- Fast equals full ------------------------------------------------------------------------

posts = st.builds(
    Post,
    path=st.sampled_from(["/apps/1/events", "/apps/2/events", "/apps/3/events", "/users/u/x"]),
    key=st.sampled_from(["key", "second", "their-key", "off-key", "nobody", None]),
    timestamp=st.one_of(
        st.integers(-602, 602).map(lambda offset: str(int(NOW) + offset)),
        st.sampled_from(["", "now", "0", "+1800000000", "01800000000", "18000000001", None]),
    ),
    version=st.sampled_from(["1.0", "1.0", "1.1", "1x0", "", None]),
    md5=st.sampled_from(["right", "right", "0" * 32, "right&a=b", None]),
    secret=st.sampled_from([None, None, b"secret", b"their-secret"]),
    signature=st.sampled_from(["right", "right", "right", "0" * 64, "", None]),
    body=st.sampled_from([BODY, b"", b"{}"]),
    signed_body=st.sampled_from([None, None, BODY, b""]),
    signed_path=st.sampled_from([None, None, None, "/apps/1/events"]),
    extra=st.lists(st.sampled_from([("name", "n"), ("auth_key", "key"), ("z", "")]), max_size=1),
)


def full(node: Node, app_id: str | None, request: Request, now: float) -> Tenant | None:
    """What `authenticate` says: the app, or None where it refuses."""
    try:
        return authenticate(
            node,
            app_id,
            method="POST",
            path=request.path.decode(),
            parameters=query_parameters(request.query),
            body=request.body,
            now_s=now,
        )
    except ApiError:
        return None


NODE = Server().node
SIGNERS = Signers(NODE)


@given(posts, st.sampled_from(["1", "2", "3", "77", None]), st.sampled_from([0.0, 0.25, 0.75]))
def test_authenticate_fast_accepts_what_full_authentication_accepts(
    post: Post, app_id: str | None, fraction: float
) -> None:
    request, now = post.request(), int(NOW) + fraction
    fast = authenticate_fast(SIGNERS, app_id, request.path, request.query, request.body, now)
    careful = full(NODE, app_id, request, now)
    assert fast is None or fast is careful
    # And as often: of what SDKs send it leaves nothing to the full one that is right.
    if careful is not None and not post.extra and post.md5 is not None:
        assert fast is careful


@given(posts, st.integers(0, 300), st.binary(max_size=3), st.integers(0, 3))
def test_no_damaged_query_is_let_in_by_the_fast_authentication_alone(
    post: Post, place: int, damage: bytes, length: int
) -> None:
    request = post.request()
    query = request.query[:place] + damage + request.query[place + length :]
    request.query = query
    fast = authenticate_fast(SIGNERS, "1", request.path, query, request.body, NOW)
    assert fast is None or fast is full(NODE, "1", request, NOW)


@given(st.lists(posts, min_size=1, max_size=5))
def test_a_warm_server_answers_as_a_cold_one(story: list[Post]) -> None:
    """Whatever was asked before."""
    warm = Server().warm()
    for post in story:
        assert warm.ask(post) == Server().ask(post)


# -- How much is read before anybody signed it -----------------------------------------------


def test_parameters_without_end_are_refused_before_they_are_read() -> None:
    server = Server()
    # The four, body_md5 and the signature are all that a plain POST has.
    most = tuple((f"a{number}", "%") for number in range(MAX_PARAMETERS - 5))
    refused = server.ask(Post(extra=(*most, ("one", "more"))))
    assert refused == (400, b"More than 100 query parameters\n")
    assert server.ask(Post(extra=tuple((name, "1") for name, _ in most))) == (200, b"{}")


def test_parameters_without_end_are_refused_before_the_body_has_arrived() -> None:
    query = b"&%" * 7000
    request = Request("POST", b"/apps/1/events?" + query, b"/apps/1/events", query, "1.1", [], True)
    early = Server().routes.refuse_early(request)
    assert early is not None
    assert early.status == 400


def test_of_parameters_without_end_only_the_first_are_read() -> None:
    query = b"protocol=7" + b"&%" * 7000
    assert query_parameters(query) == [("protocol", "7"), *[("%", "")] * (MAX_PARAMETERS - 1)]
    assert requested_app(b"/app/key", query, "", lenient=False) == "key"
