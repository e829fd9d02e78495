"""Masking of a client's frames (RFC 6455 5.3) in Python, used if the C library is missing."""

_AT_ONCE = 1 << 14  # a multiple of the mask's four bytes; 100 KB take two thirds of the time


def apply_mask(data: bytes | bytearray | memoryview, mask: bytes | bytearray) -> bytes:
    """XOR *data* with the four bytes of *mask*, repeated."""
    length = len(data)
    if length > _AT_ONCE:
        starts = range(0, length, _AT_ONCE)
        return b"".join([apply_mask(data[at : at + _AT_ONCE], mask) for at in starts])
    # As one large number: Python's loop for that is in C, too, but slower.
    masks = (mask * (length // 4 + 1))[:length]
    number = int.from_bytes(data, "little") ^ int.from_bytes(masks, "little")
    return number.to_bytes(length, "little")
