"""
The command: `heliograph`, and `python -m heliograph`.

A SIGHUP has a running server read its apps again, and ends a process that does not expect it. So
none is lost on the way there, it is ignored before anything else is imported, which takes a while.
"""

import signal

HANGUP = getattr(signal, "SIGHUP", None)  # it does not exist everywhere
inherited = None if HANGUP is None else signal.signal(HANGUP, signal.SIG_IGN)

from heliograph.cli import main as cli  # noqa: E402 - see above


def main() -> None:
    """Run the command, and exit with its status. Those that are no server can be hung up."""
    cli.main(not_a_server=_expect_hangup)


def _expect_hangup() -> None:
    if HANGUP is not None and inherited is not None:  # None was set by no Python
        signal.signal(HANGUP, inherited)


if __name__ == "__main__":
    main()
