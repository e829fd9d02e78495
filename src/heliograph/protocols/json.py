r"""
JSON in and out, for text that comes from strangers.

Everything that can be wrong with a text ends in one error, `InvalidJson`. Lone surrogate
escapes (`"\ud800"`) are legal JSON that msgspec refuses and UTF-8 cannot hold: they are
veiled from it, and leave as the escapes they came as. The cost is a few times that of other text.
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
"""Writes nearly everything; what it raises UnicodeEncodeError for, `encode` writes."""


class InvalidJson(HeliographError):
    """The text is not JSON, or not of the shape asked for; *well_formed* tells which."""

    def __init__(self, message: str, *, well_formed: bool) -> None:
        super().__init__(message)
        self.well_formed = well_formed


def decode(text: bytes, shape: type[T]) -> T:
    """
    Read *text*, which is valid UTF-8, as a *shape*: a Struct, or a type of JSON.

    Fields of type `Raw` receive their part of the text unread. Raises `InvalidJson`.
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
"""What a decoder of `decoder_of` raises; `decode` says what of it is whose fault."""


def decoder_of(shape: type[T]) -> msgspec.json.Decoder[T]:
    """Return what reads a *shape*, for where that happens very often; see UNREADABLE."""
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
    """Return what `msgspec.convert` makes a *shape* of, of which nothing is passed on unread."""
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
"""Bytes without which there is nothing to veil, what is veiled, and its veil; in this order."""


class _Veiled:
    r"""
    JSON whose surrogates are veiled as other escapes, so that msgspec reads around them.

    For shapes with parts that are passed on as they were written; others are read by the standard
    library, which takes longer only where there are many parts.

    `\ud…` becomes `\ue…`: msgspec goes on to check the digits. A veil can be lifted from any part
    of the text, exactly, because what looks like one, or like the beginning of one, is veiled
    before. So are escaped backslashes: after that, every backslash begins an escape. Each step is
    one call, however much there is to veil: a call for each surrogate would take ten times as long.
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
        """Return what `msgspec.convert` makes a *shape* of. Raises ValueError, RecursionError."""
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
    """Return a reader of *shape* that leaves all fields unread, and their kinds by name."""
    kinds = [(field.encode_name, field.type) for field in msgspec.structs.fields(shape)]
    unread = defstruct(shape.__name__, [(name, Raw, Raw()) for name, _ in kinds], gc=False)
    return msgspec.json.Decoder(unread), kinds


def encode(value: Any) -> bytes:
    """Write *value* as JSON in UTF-8, each string that holds a lone surrogate in ASCII."""
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
    """Write *text* as a JSON string, quotes included."""
    return encode(text)


def as_string_literal(raw: bytes) -> bytes:
    """Return *raw* if it is a JSON string, else a JSON string that holds its text."""
    return raw if raw.startswith(b'"') else encode(raw.decode())


def string_value(literal: bytes) -> str:
    """Return what a valid JSON string says."""
    return decode(literal, str)


def string_size(literal: bytes) -> int:
    """Return the bytes of UTF-8 that a valid JSON string decodes to."""
    if b"\\" not in literal:
        return len(literal) - 2
    return len(string_value(literal).encode(errors="surrogatepass"))
