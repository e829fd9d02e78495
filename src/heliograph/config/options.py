"""
The definition of an option, and the parsing of its value.

An option is declared once, as a field of a dataclass (a part in `settings`, or `App` in `apps`):
name, type, default, a sentence. The flag, the environment variables, the key of the configuration
file, the sample file and the tables in the documents are generated from it.
"""

import difflib
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

LARGEST = 2**53
"""No number of an option is larger: up to here a float is as exact as a whole number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """
    One option.

    *kind* is bool, int, float, str or tuple (of strings). *environment* are the variables that
    set it besides HELIOGRAPH_<NAME>, which goes first. *aliases* are other names of its flag.
    *each* parses each text of a list, and raises ValueError with the mistake in it. *secret*
    values are never printed. *follows* names the option before this one in tables and help, where
    that is not the one declared before it.
    """

    name: str
    kind: type
    default: Any
    sentence: str
    group: str
    environment: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    each: Callable[[str], str] | None = None
    minimum: float = 0
    maximum: float = LARGEST
    unit: str = ""
    secret: bool = False
    follows: str = ""

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that set it, the strongest first."""
        return (f"HELIOGRAPH_{self.name.upper()}", *self.environment)

    @property
    def flag(self) -> str:
        """The flag as it is documented."""
        return f"--{self.name}"

    def parse(self, value: object) -> Any:
        """
        Return *value*, from a file or a text of the environment or a flag, as this option's kind.

        Raises ValueError with the mistake in it.
        """
        if isinstance(value, str) and not _is_unicode(value):
            raise ValueError(f"{value!r} is not UTF-8")
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{value!r} contains a zero byte")
        parsed = _PARSERS[self.kind](value)
        if parsed == "" and self.default is None:
            return None  # as the sample file has it
        if self.each is not None:
            parsed = tuple(map(self.each, parsed))
        if self.choices and parsed not in self.choices:
            raise ValueError(f"{value!r} is not one of {', '.join(self.choices)}")
        if isinstance(parsed, int | float) and not isinstance(parsed, bool):
            if parsed < self.minimum:
                raise ValueError(f"{in_full(parsed)} is less than {in_full(self.minimum)}")
            if parsed > self.maximum:
                raise ValueError(f"{in_full(parsed)} is more than {in_full(self.maximum)}")
        return parsed


def _is_unicode(text: str) -> bool:
    """Return whether *text* has no surrogates, which replace bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in {"true", "1", "yes", "on"}:
            return True
        if word in {"false", "0", "no", "off"}:
            return False
    raise ValueError(f"{value!r} is neither true nor false")


def _parse_int(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal():
        return int(value)
    raise ValueError(f"{value!r} is not a whole number")


def _parse_float(value: object) -> float:
    try:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            number = float(value)
            if number == number and abs(number) != float("inf"):  # noqa: PLR0124 - NaN is not itself
                return number
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{value!r} is not a number")


def _parse_str(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is not a string")


def _parse_list(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return tuple(value)
    raise ValueError(f"{value!r} is not a list of strings")


_PARSERS: dict[type, Callable[[object], Any]] = {
    bool: _parse_bool,
    int: _parse_int,
    float: _parse_float,
    str: _parse_str,
    tuple: _parse_list,
}

SERVER, SINGLE_APP, PROTOCOL = "Server", "The app", "Protocol"
HISTORY, LIMITS, WEBHOOKS = "History", "Limits", "Webhooks"
GROUPS = (SERVER, SINGLE_APP, PROTOCOL, HISTORY, LIMITS, WEBHOOKS)
"""In the order of tables and help."""


def option(
    default: Any,
    sentence: str,
    *,
    group: str = SINGLE_APP,
    environment: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
    choices: tuple[str, ...] = (),
    each: Callable[[str], str] | None = None,
    minimum: float = 0,
    maximum: float = LARGEST,
    unit: str = "",
    secret: bool = False,
    follows: str = "",
) -> Any:
    """Declare a field of a dataclass as an option. See Option for the rest."""
    metadata = {
        "sentence": sentence,
        "group": group,
        "environment": environment,
        "aliases": aliases,
        "choices": choices,
        "each": each,
        "minimum": minimum,
        "maximum": maximum,
        "unit": unit,
        "secret": secret,
        "follows": follows,
    }
    return field(default=default, metadata=metadata, repr=not secret)


def options_of(declared: type) -> tuple[Option, ...]:
    """Return the options that the dataclass *declared* declares, in their order."""
    hints = typing.get_type_hints(declared)
    return tuple(
        Option(name=one.name, kind=_kind(hints[one.name]), default=one.default, **one.metadata)
        for one in fields(declared)
        if "sentence" in one.metadata and one.default is not MISSING
    )


def in_order(parts: Iterable[Iterable[Option]]) -> tuple[Option, ...]:
    """
    Return the options of *parts* by group, as tables and help have them.

    Within a group, an option comes after the one that it follows, or else after the one before it
    in its part.
    """
    found: list[Option] = []
    for options in parts:
        previous: Option | None = None
        for one in options:
            follows = one.follows
            if not follows and previous is not None and previous.group == one.group:
                follows = previous.name
            names = [other.name for other in found]
            found.insert(names.index(follows) + 1 if follows else len(found), one)
            previous = one
    return tuple(sorted(found, key=lambda one: GROUPS.index(one.group)))


def _kind(hint: Any) -> type:
    """Return the kind of a type: of `int | None` it is int, of `tuple[str, ...]` tuple."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return typing.get_origin(hint) or typing.cast("type", hint)


def text_of(one: Option, value: object) -> str:
    """Return *value* as operators write it; a secret is redacted."""
    if value is None or value == ():
        return ""
    if one.secret:
        return "(hidden)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return in_full(value) if isinstance(value, float) else str(value)


def in_full(number: float) -> str:
    """Return *number*, without a fraction of zero."""
    return str(number).removesuffix(".0")


def suggestion(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """
    Return the name in *known* that is most similar to *name*, as the end of a sentence; or "".

    *cutoff* is how similar the two must be, from 0 to 1.
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""
