"""
Redaction of messages for the log: credentials and personal data are left out.

These are signatures, the data of applications about their users, and fields whose names are those
of secrets. A message that is not valid JSON is not logged at all: its content is unknown.
"""

import json
import re
from string import hexdigits
from typing import Any

HIDDEN = "(hidden)"

MAX_LOGGED = 1000
"""Characters of a message that are logged."""

MAX_SEARCHED = 2 * MAX_LOGGED
"""Characters of a text that are searched for secrets, in a time that grows with their square."""

_OF_USERS = frozenset(("user_info", "hash"))
_SIGNED = frozenset(("channel_data", "user_data"))
_SECRET = re.compile(
    r"secret|token|passw|passphrase|signature|credential|authori[sz]ation|cookie|session_?id"
    r"|(^|_)(api|private|access)_?key|(^|_)jwt($|_)|(^|_)pin($|_)",
    re.IGNORECASE,
)
_DIGEST = re.compile(r"\b[0-9A-Fa-f]{32,}\b")
_ECHO = re.compile(r"(digest of [^:]*:[^:,]*|Invalid key in subscription auth data: ).*", re.DOTALL)
"""The texts of this server that contain a signature, or a key, that a client sent."""


def redact_message(text: bytes) -> str:
    """Return a message, or any other JSON, for the log. Never raises."""
    try:
        value = json.loads(text)
        result = json.dumps(_cut(value), ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return f"({len(text)} bytes, not JSON)"
    if len(result) > MAX_LOGGED:
        return f"{result[:MAX_LOGGED]}... ({len(text)} bytes)"
    return result


def _cut(value: Any, name: str = "") -> Any:
    if name in _OF_USERS or _SECRET.search(name):
        return HIDDEN if value not in (None, "", {}) else value
    if isinstance(value, dict):
        return {redact_text(key): _cut(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item) for item in value]
    if isinstance(value, str):
        return _cut_text(value, name)
    return value


def _cut_text(text: str, name: str) -> str:
    if name == "auth":
        key, colon, _ = text.partition(":")
        return f"{redact_text(key)}:{HIDDEN}" if colon else HIDDEN
    inner = _nested(text)
    if name in _SIGNED:
        # The id of the user helps the operator; the rest is the application's data about the user.
        who = inner if isinstance(inner, dict) else {}
        return json.dumps(
            {key: who[key] for key in ("user_id", "id") if key in who} | {"...": HIDDEN}
        )
    if isinstance(inner, dict | list):
        return json.dumps(_cut(inner), ensure_ascii=False)
    return redact_text(text)


def _nested(text: str) -> Any:
    """Return the JSON in *text*, as `data` often has it; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def redact_text(text: str) -> str:
    """Return a text that is not JSON for the log: only the beginning of a long one."""
    if len(text) > MAX_SEARCHED:
        # A digest that is cut may be too short to be found, so its rest is removed.
        text = text[:MAX_SEARCHED].rstrip(hexdigits) + "..."
    return _DIGEST.sub(HIDDEN, _ECHO.sub(rf"\1... {HIDDEN}", text))
