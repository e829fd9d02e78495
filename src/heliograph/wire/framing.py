"""
Frames the text of a message for a WebSocket: uncompressed, or compressed.

Knows RFC 6455 and RFC 7692. All connections that negotiated the same share one object.
"""

from heliograph.wire.deflate import SMALLEST_WINDOW_BITS, WINDOW_BITS
from heliograph.wire.websocket import compressed_text_frame, text_frame


class TextFraming:
    """Text frames, uncompressed; the base of other framings."""

    compression = False
    """Whether the client may compress its messages, too."""

    def frame(self, text: bytes) -> bytes:
        """Make a frame of a message."""
        return text_frame(text)

    def uncompressed(self, text: bytes) -> bytes:
        """Make a frame of a message that is not compressed, whatever its size."""
        return text_frame(text)


class DeflateFraming(TextFraming):
    """
    Text frames; messages of *threshold* bytes and more are compressed.

    All clients whose window is smaller than usual share one other framing, with the smallest
    window. So clients can cause a message to be compressed twice, but not once for each window
    size.
    """

    compression = True

    def __init__(self, threshold: int, window_bits: int = WINDOW_BITS) -> None:
        self._threshold = threshold
        self._window_bits = window_bits
        self._small: DeflateFraming | None = None  # until a client needs it

    def within(self, window_bits: int) -> "DeflateFraming":
        """Return the framing for a client with a window of *window_bits*, 9 to 15."""
        if window_bits >= self._window_bits:
            return self
        if self._small is None:
            self._small = DeflateFraming(self._threshold, SMALLEST_WINDOW_BITS)
        return self._small

    def frame(self, text: bytes) -> bytes:
        """Make a frame of a message."""
        if len(text) < self._threshold:
            return text_frame(text)
        return compressed_text_frame(text, self._window_bits)
