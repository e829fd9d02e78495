"""
All exceptions that cross a module boundary, and their cause.

    HeliographError
    ├── ConfigError      an operator's mistake: an option, a file, an address
    ├── ClientError      a client's mistake; the client receives it in the form of its protocol
    ├── ApiError         a publisher's mistake; the publisher receives an HTTP status and a text
    └── EngineError      the engine is unavailable; the publisher is answered 503
        ├── Unavailable     nothing of the command was executed
        └── OutcomeUnknown  it may have been executed, but will not be from now on

A broken invariant is an `AssertionError`: a fault of the server itself.
"""


class HeliographError(Exception):
    """The base class of all errors that leave the module in which they occur."""


class ConfigError(HeliographError):
    """The configuration is invalid; the text names the option and its source."""


class ClientError(HeliographError):
    """
    A client's request is refused.

    The client receives *message*. *code* is an error code of its protocol, None if the protocol has
    none for this error. The connection stays open unless *closes*.
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

    *failed* has the channels that failed, if the command named several; empty means all of them.
    """

    def __init__(self, message: str, *, failed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.failed = failed


class Unavailable(EngineError):
    """Nothing of the command was executed, and nothing will be."""


class OutcomeUnknown(EngineError):
    """The command, a `publish` or a `terminate`, may have been executed, completely or partly."""


MAX_ECHO = 500
"""Characters of received text that an error text repeats: more than a name, key or signature."""


def echoed(text: str, most: int = MAX_ECHO) -> str:
    """Return the part of *text*, which a client sent, that is repeated: *most* characters."""
    return text if len(text) <= most else text[:most] + "..."
