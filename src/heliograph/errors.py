"""
Every exception that crosses a module boundary, and whose fault it is.

    HeliographError
    ├── ConfigError      the operator's: an option, a file, an address
    ├── ClientError      a client's, which receives it in the words of its protocol
    ├── ApiError         a publisher's, which receives an HTTP status and a text
    └── EngineError      the engine is unavailable; the publisher is answered 503
        ├── Unavailable     nothing of the command was executed
        └── OutcomeUnknown  it may have been executed, but will not be from now on

A broken invariant is an `AssertionError`: it is our fault and nobody else's.
"""


class HeliographError(Exception):
    """Something went wrong that somebody outside this module must hear of."""


class ConfigError(HeliographError):
    """The server cannot start as asked; the text names the option and where it was set."""


class ClientError(HeliographError):
    """
    A client asked for what it may not have.

    *message* is what the client reads. *code* is one of its protocol's, None where it has none for
    this; the connection stays open unless *closes*.
    """

    def __init__(self, message: str, code: int | None = None, *, closes: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.closes = closes


class ApiError(HeliographError):
    """
    A request of the HTTP API is refused with *status*; *message* is the body's only line.

    *headers* are added to the response.
    """

    def __init__(
        self, status: int, message: str, *, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


class EngineError(HeliographError):
    """
    The engine did not answer in time; it will not execute the command later, either.

    *failed* are the channels concerned, where the command named several; empty: all of them.
    """

    def __init__(self, message: str, *, failed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.failed = failed


class Unavailable(EngineError):
    """Nothing of the command was executed, and nothing will be."""


class OutcomeUnknown(EngineError):
    """The command may have been executed, as a whole or in part; of `publish` and `terminate`."""


MAX_ECHO = 500
"""Characters that a text repeats of what was sent to us: more than any name, key or signature."""


def echoed(text: str, most: int = MAX_ECHO) -> str:
    """Return *text*, which a client sent, as far as it is repeated: *most* characters of it."""
    return text if len(text) <= most else text[:most] + "..."
