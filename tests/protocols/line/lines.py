"""
The lines of the protocol: the words of clients, of answers, of facts and of goodbyes.

A line has words with spaces between them; what may hold a space is percent-encoded.
"""

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import quote, unquote

from heliograph.errors import ClientError
from heliograph.hub.facts import Event, Fact, Member, MemberAdded, MemberRemoved, SubscriptionCount
from heliograph.node.dialect import Ending, Goodbye, NotAdmitted

CLIENT_EVENT = "client-line"
"""The name of the event that `say` sends."""

PUBLISHED_EVENT = "line"
"""The name of the event that the HTTP endpoint publishes."""

SHOWN = 200
"""Characters of a line that the log shows."""

HIDDEN = "(hidden)"

ENDINGS = {
    Ending.APP_DISABLED: (4700, "app-disabled"),
    Ending.TERMINATED: (4701, "terminated"),
    Ending.RECONNECT: (4702, "reconnect"),
    Ending.EVENTS_LOST: (4703, "events-lost"),
    Ending.ENGINE_UNAVAILABLE: (4704, "unavailable"),
    Ending.OVER_CAPACITY: (4705, "over-capacity"),
    Ending.ADDRESS_OVER_LIMIT: (4706, "address-over-limit"),
    Ending.TOO_MANY_MESSAGES: (4707, "too-many-messages"),
    Ending.TOO_MUCH_UNFINISHED: (4708, "too-much-unfinished"),
    Ending.PING_UNANSWERED: (4709, "ping-unanswered"),
    Ending.NOT_IDENTIFIED: (4710, "not-identified"),
}

NOT_ADMITTED = {
    NotAdmitted.Why.UNKNOWN_KEY: (4720, "unknown-key"),
    NotAdmitted.Why.APP_DISABLED: (4721, "app-disabled"),
    NotAdmitted.Why.ORIGIN: (4722, "origin"),
    NotAdmitted.Why.QUOTA: (4723, "quota"),
}

_SECRETS_AFTER = {b"subscribe": 2, b"join": 3}
"""Of lines with a proof, how many words stand before it."""

_SHOWN = (
    *(b"say", b"leave", b"hello", b"subscribed", b"joined", b"said", b"left", b"error", b"event"),
    *(b"added", b"removed", b"count", b"lost", b"bye"),
)


def proof(secret: bytes, *words: str) -> str:
    """Return the signature of *words*, by which an application lets a client into a room."""
    return hmac.new(secret, ":".join(words).encode(), hashlib.sha256).hexdigest()


def is_proof(secret: bytes | None, stated: str, *words: str) -> bool:
    """Whether *stated* is the signature of *words*; without a *secret*, it is not."""
    return secret is not None and hmac.compare_digest(
        proof(secret, *words).encode(), stated.encode(errors="surrogatepass")
    )


def goodbye(code: int, word: str) -> Goodbye:
    """Return the last line of a connection, and its close code."""
    return Goodbye(code, word, line("bye", word))


def line(*words: str) -> bytes:
    """Return a line of *words*."""
    return " ".join(words).encode()


def encoded(text: str) -> str:
    """Return *text* as one word."""
    return quote(text, safe="/:=@,.;", errors="surrogatepass")


def decoded(word: str) -> str:
    """Return what a word stands for."""
    return unquote(word)


def error(problem: ClientError) -> bytes:
    """Return the answer to a line that the server cannot do what it asks for."""
    return line("error", problem.message)


def names(verb: str, room: str, members: Iterable[Member]) -> bytes:
    """Return a line that lists the members of a room."""
    return line(verb, room, *sorted(encoded(member.user_id) for member in members))


def fact(what: Fact) -> bytes:
    """Return a fact of a room as its clients receive it."""
    if isinstance(what, Event):
        return b"event %b %b %b" % (what.channel.encode(), encoded(what.name).encode(), what.data)
    if isinstance(what, MemberAdded):
        return line("added", what.channel, encoded(what.member.user_id))
    if isinstance(what, MemberRemoved):
        return line("removed", what.channel, encoded(what.user_id))
    if isinstance(what, SubscriptionCount):
        return line("count", what.channel, str(what.count))
    raise AssertionError("no client of this protocol watches a user")


def redact(text: bytes) -> str:
    """Return what the log may show of a line: no proof, and nothing of a line that is unknown."""
    words = text.split(b" ")
    before = _SECRETS_AFTER.get(words[0])
    if before is not None:
        shown = [word.decode(errors="replace") for word in words[:before]]
        return " ".join([*shown, *([HIDDEN] if len(words) > before else [])])[:SHOWN]
    if words[0] in _SHOWN:
        return text.decode(errors="replace")[:SHOWN]
    return f"({len(text)} bytes)"
