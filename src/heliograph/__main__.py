"""
The command: `heliograph`, and `python -m heliograph`.

A running server reloads its apps on SIGHUP. A process without a handler is ended by the signal.
The imports take a while, so SIGHUP is ignored before them: it does not end a server that starts.
"""

import signal

HANGUP = getattr(signal, "SIGHUP", None)  # it does not exist everywhere
inherited = None if HANGUP is None else signal.signal(HANGUP, signal.SIG_IGN)

from heliograph.cli import main as cli  # noqa: E402 - see above


def main() -> None:
    """Run the command, and exit with its status. SIGHUP ends every command except the server."""
    cli.main(not_a_server=_expect_hangup)


def _expect_hangup() -> None:
    if HANGUP is not None and inherited is not None:  # None: a handler that Python did not set
        signal.signal(HANGUP, inherited)


if __name__ == "__main__":
    main()
