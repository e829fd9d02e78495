r"""
Decodes and encodes JSON, for text from clients that are not trusted.

Each fault of a text raises the same error, `InvalidJson`. Lone surrogate escapes (`"\ud800"`) are
legal JSON, but msgspec refuses them, and UTF-8 cannot contain them. So they are replaced by other
escapes, veils, before msgspec decodes the text, and are written as the same escapes as in the
input. This costs a few times as much as other text.
"""

import json
from collections.abc import Iterable
from functools import cache
from typing import Any, NoReturn, TypeVar, get_args, get_origin

import msgspec
from msgspec import Raw, Struct, defstruct

from heliograph.errors import HeliographError

T = TypeVar("T")

ENCODER = msgspec.json.Encoder()
"""Encodes nearly every value; if it raises UnicodeEncodeError, use `encode`."""


class InvalidJson(HeliographError):
    """The text is not JSON, or, if *well_formed*, is JSON of another shape than the requested."""

    def __init__(self, message: str, *, well_formed: bool) -> None:
        super().__init__(message)
        self.well_formed = well_formed


def decode(text: bytes, shape: type[T]) -> T:
    """
    Decode *text*, which is valid UTF-8, as a *shape*: a Struct, or a type of JSON.

    Fields of type `Raw` receive their part of the text without decoding. Raises `InvalidJson`.
    """
    try:
        value: T = _decoder(shape).decode(text)  # type: ignore[arg-type]  # classes are hashable
    except msgspec.ValidationError as error:
        raise InvalidJson(str(error), well_formed=True) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        if b"\\ud" in text or b"\\uD" in text:
            return _decode_with_surrogates(text, shape)
        raise InvalidJson("Invalid JSON", well_formed=False) from None
    except RecursionError:
        raise InvalidJson("JSON nested too deeply", well_formed=False) from None
    return value


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""
The errors that a decoder of `decoder_of` raises.

The text may still be valid: then `decode` decodes it, else it raises `InvalidJson`.
"""


def decoder_of(shape: type[T]) -> msgspec.json.Decoder[T]:
    """Return a decoder of a *shape*, for callers on the hot path; see UNREADABLE."""
    decoder: msgspec.json.Decoder[T] = _decoder(shape)  # type: ignore[arg-type]  # as above
    return decoder


@cache
def _decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(shape)


def _decode_with_surrogates(text: bytes, shape: type[T]) -> T:
    try:
        unread = _has_unread(shape)  # type: ignore[arg-type]  # as above
        value = _Veiled(text).read(shape) if unread else _loaded(text, shape)
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise InvalidJson(str(error), well_formed=True) from None
    except (ValueError, RecursionError):  # a DecodeError is one
        raise InvalidJson("Invalid JSON", well_formed=False) from None


@cache
def _has_unread(shape: Any) -> bool:
    if isinstance(shape, type) and issubclass(shape, Struct):
        return any(_has_unread(field.type) for field in msgspec.structs.fields(shape))
    return shape is Raw or any(map(_has_unread, get_args(shape)))


def _loaded(text: bytes, shape: Any) -> Any:
    """Return the input with which `msgspec.convert` makes a *shape* without `Raw` fields."""
    value = json.loads(text.decode(), parse_constant=_refuse_constant)
    if isinstance(value, dict) and isinstance(shape, type) and issubclass(shape, Struct):
        names = [field.encode_name for field in msgspec.structs.fields(shape)]
        return {name: value[name] for name in names if name in value}
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_VEILS = (
    (b"~|", b"~|", b"~|0"),
    (b"\\", rb"\\", b"~|1"),
    (b"e", rb"\ue", rb"~|2\ud"),
    (b"d", rb"\ud", rb"\ue"),
    (b"E", rb"\uE", rb"~|2\uD"),
    (b"D", rb"\uD", rb"\uE"),
)
"""
The steps of veiling, in order: a byte, the bytes that are veiled, and their veil.

A text without the byte needs no such step.
"""


class _Veiled:
    r"""
    JSON whose surrogates are veiled as other escapes, so that msgspec can decode it.

    For shapes with `Raw` parts, which are passed on as they were written. The standard library
    decodes other shapes; it takes longer only if there are many parts.

    `\ud…` becomes `\ue…`: msgspec still checks the digits. The original of any part of the text can
    be restored exactly, because text that equals a veil, or the beginning of one, is veiled in an
    earlier step. Escaped backslashes are veiled too: after that, every backslash begins an escape.
    Each step is one call for the whole text: a call for each surrogate would take ten times as
    long.
    """

    __slots__ = ("_text", "_veils")

    def __init__(self, text: bytes) -> None:
        self._veils: list[tuple[bytes, bytes]] = []
        for letter, seen, veil in _VEILS:
            if letter in text:
                veiled = text.replace(seen, veil)
                if veiled is not text:
                    self._veils.append((seen, veil))
                    text = veiled
        self._text = text

    def read(self, shape: Any) -> Any:
        """
        Return the input with which `msgspec.convert` makes a *shape*.

        Raises ValueError, RecursionError.
        """
        return self._read(self._text, shape)

    def _read(self, veiled: bytes, shape: Any) -> Any:
        if get_origin(shape) is list:
            (item,) = get_args(shape)
            return [self._read(bytes(one), item) for one in _decoder(list[Raw]).decode(veiled)]
        if isinstance(shape, type) and issubclass(shape, Struct):
            decoder, kinds = _unread(shape)
            found = decoder.decode(veiled)
            parts = [(name, bytes(getattr(found, name)), kind) for name, kind in kinds]
            return {name: self._read(part, kind) for name, part, kind in parts if part}
        text = self._lifted(veiled)
        if shape is Raw:
            return Raw(text)
        try:
            return _decoder(shape).decode(text)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return json.loads(text.decode())

    def _lifted(self, veiled: bytes) -> bytes:
        for seen, veil in reversed(self._veils):
            veiled = veiled.replace(veil, seen)
        return veiled


@cache
def _unread(shape: type[Struct]) -> tuple[msgspec.json.Decoder[Any], list[tuple[str, Any]]]:
    """Return a decoder of *shape* that leaves all fields `Raw`, and the fields' types by name."""
    kinds = [(field.encode_name, field.type) for field in msgspec.structs.fields(shape)]
    unread = defstruct(shape.__name__, [(name, Raw, Raw()) for name, _ in kinds], gc=False)
    return msgspec.json.Decoder(unread), kinds


def encode(value: Any) -> bytes:
    """Encode *value* as JSON in UTF-8; strings with lone surrogates are written in ASCII."""
    try:
        return ENCODER.encode(value)
    except UnicodeEncodeError:
        return _encode_parts(value)


def _encode_parts(value: Any) -> bytes:
    if isinstance(value, str):
        return json.dumps(value).encode()
    if isinstance(value, dict):
        return _object(value.items())
    if isinstance(value, list | tuple):
        return b"[%b]" % b",".join([encode(item) for item in value])
    if isinstance(value, Struct):
        fields = msgspec.structs.fields(value)
        found = [(field.encode_name, getattr(value, field.name)) for field in fields]
        return _object([pair for pair in found if pair[1] is not msgspec.UNSET])
    raise AssertionError(f"no {type(value).__name__} holds a surrogate")


def _object(pairs: Iterable[tuple[str, Any]]) -> bytes:
    return b"{%b}" % b",".join([b"%b:%b" % (encode(name), encode(item)) for name, item in pairs])


def string_literal(text: str) -> bytes:
    """Encode *text* as a JSON string, quotes included."""
    return encode(text)


def as_string_literal(raw: bytes) -> bytes:
    """Return *raw* if it is a JSON string, else a JSON string that contains its text."""
    return raw if raw.startswith(b'"') else encode(raw.decode())


def string_value(literal: bytes) -> str:
    """Return the text of a valid JSON string."""
    return decode(literal, str)


def string_size(literal: bytes) -> int:
    """Return the size, in bytes of UTF-8, of the text of a valid JSON string."""
    if b"\\" not in literal:
        return len(literal) - 2
    return len(string_value(literal).encode(errors="surrogatepass"))
