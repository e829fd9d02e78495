"""
A message as a log may show it: what proves or tells who somebody is, is left out.

Signatures, what applications say of their users, and whatever is named as a secret is. What
cannot be read as JSON is not shown at all: nobody knows what is in it.
"""

import json
import re
from string import hexdigits
from typing import Any

HIDDEN = "(hidden)"

MAX_LOGGED = 1000
"""Characters of a message that are shown."""

MAX_SEARCHED = 2 * MAX_LOGGED
"""Characters of a text in which secrets are searched for, which takes their square of time."""

_OF_USERS = frozenset(("user_info", "hash"))
_SIGNED = frozenset(("channel_data", "user_data"))
_SECRET = re.compile(
    r"secret|token|passw|passphrase|signature|credential|authori[sz]ation|cookie|session_?id"
    r"|(^|_)(api|private|access)_?key|(^|_)jwt($|_)|(^|_)pin($|_)",
    re.IGNORECASE,
)
_DIGEST = re.compile(r"\b[0-9A-Fa-f]{32,}\b")
_ECHO = re.compile(r"(digest of [^:]*:[^:,]*|Invalid key in subscription auth data: ).*", re.DOTALL)
"""What of ours repeats what a client sent as its signature."""


def redact_message(text: bytes) -> str:
    """Return what a log may show of a message, or of any other JSON. Never raises."""
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
        # Who it is helps; the rest is what the application says of them.
        who = inner if isinstance(inner, dict) else {}
        return json.dumps(
            {key: who[key] for key in ("user_id", "id") if key in who} | {"...": HIDDEN}
        )
    if isinstance(inner, dict | list):
        return json.dumps(_cut(inner), ensure_ascii=False)
    return redact_text(text)


def _nested(text: str) -> Any:
    """Return the JSON that is in *text*, as `data` often has it; None where there is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def redact_text(text: str) -> str:
    """Return what a log may show of a text that is no JSON: of a long one, the beginning."""
    if len(text) > MAX_SEARCHED:
        # What is left of a digest at the cut would be too short to be found.
        text = text[:MAX_SEARCHED].rstrip(hexdigits) + "..."
    return _DIGEST.sub(HIDDEN, _ECHO.sub(rf"\1... {HIDDEN}", text))
