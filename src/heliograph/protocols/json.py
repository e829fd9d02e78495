r"""
JSON in and out, for text that comes from strangers.

Everything that can be wrong with a text ends in one error, `InvalidJson`. Lone surrogate
escapes (`"\ud800"`) are legal JSON that msgspec refuses and UTF-8 cannot hold: they
take the standard library's slower road, and leave as the escapes they came as.
"""

import json
from functools import cache
from typing import Any, NoReturn, TypeVar, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

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
        if b"\\ud" in text.lower():
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
        value = json.loads(text, parse_constant=_refuse_constant)
        return msgspec.convert(_with_raw(value, shape), shape)
    except msgspec.ValidationError as error:
        raise InvalidJson(str(error), well_formed=True) from None
    except (ValueError, RecursionError):
        raise InvalidJson("Invalid JSON", well_formed=False) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _with_raw(value: Any, shape: Any) -> Any:
    """Put text, in ASCII, where *shape* wants its parts unread."""
    if shape is Raw:
        return Raw(json.dumps(value).encode())
    if isinstance(value, list) and get_origin(shape) is list:
        return [_with_raw(item, get_args(shape)[0]) for item in value]
    if isinstance(value, dict) and isinstance(shape, type) and issubclass(shape, Struct):
        kinds = {field.encode_name: field.type for field in msgspec.structs.fields(shape)}
        return {key: _with_raw(item, kinds.get(key)) for key, item in value.items()}
    return value


def encode(value: Any) -> bytes:
    """Write *value* as JSON in UTF-8, or in ASCII where it holds a lone surrogate."""
    try:
        return ENCODER.encode(value)
    except UnicodeEncodeError:
        return json.dumps(_plain(value), separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Raw):
        return json.loads(bytes(value))
    if isinstance(value, Struct):
        return {
            field.encode_name: _plain(item)
            for field in msgspec.structs.fields(value)
            if (item := getattr(value, field.name)) is not msgspec.UNSET
        }
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


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
