"""
An event as its subscribers read it: the message that is sent most, so compiled.

Knows how such a message is written. Knows nothing of frames, sockets and subscribers.
"""

from typing import Final

from heliograph.hub.facts import Event
from heliograph.protocols.json import ENCODER, string_literal

_literal: Final = ENCODER.encode  # `string_literal`, for what holds no lone surrogate


def event_message(event: Event) -> bytes:
    """
    Return the message, JSON in UTF-8. The data is carried as the publisher wrote it.

    As text, it takes half the time that a Struct would.
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
