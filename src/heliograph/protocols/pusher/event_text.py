"""
The message with which subscribers receive an event: sent more often than all others, so compiled.

Knows the form of this message. Knows nothing of frames, sockets and subscribers.
"""

from typing import Final

from heliograph.hub.facts import Event
from heliograph.protocols.json import ENCODER, string_literal

_literal: Final = ENCODER.encode  # `string_literal`, for text without lone surrogates


def event_message(event: Event) -> bytes:
    """
    Return the message, JSON in UTF-8. It contains the data as the publisher wrote it.

    Joining text takes half the time of encoding a Struct.
    """
    try:
        name = _literal(event.name)
    except UnicodeEncodeError:
        name = string_literal(event.name)
    channel = _literal(event.channel)
    parts = [b'{"event":', name, b',"channel":', channel, b',"data":', event.data]
    if event.user_id is not None:
        parts += [b',"user_id":', string_literal(event.user_id)]
    parts.append(b"}")
    return b"".join(parts)
