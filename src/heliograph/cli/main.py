"""
The command: reads options, then runs the server or prints one line with the error.

The exit status is 0 after an orderly end, and 2 for every error that the operator can fix.
"""

import difflib
import os
import secrets
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeVar

import click

from heliograph import __version__, reply
from heliograph.cli import development
from heliograph.config import show
from heliograph.config.anycable_options import ANYCABLE_OPTIONS
from heliograph.config.load import load
from heliograph.config.options import Option, text_of
from heliograph.config.settings import OPTIONS, Config
from heliograph.errors import ConfigError, HeliographError
from heliograph.observe import metrics

F = TypeVar("F", bound=Callable[..., Any])

# For reports of faults: the file of a compiled module does not end in .py.
_COMPILED = "" if (reply.__file__ or "").endswith(".py") else " (compiled)"

FLAGS = {name: one for one in OPTIONS.values() for name in (one.name, *one.aliases)}
"""Options by the names of their flags, with underscores."""

START = "serve"
"""The default command."""

EPILOG = (
    "Each option can also be set by the environment variables after its description, and in the"
    " file of --config. Flags override environment variables, which override the file. Dashes and"
    " underscores are the same in flags, and --no_NAME turns a switch off."
)


class _Command(click.Command):
    """A command whose help shows the options in their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                one = OPTIONS.get(parameter.name or "")
                groups.setdefault(one.group if one else "Other", []).append(record)
        groups.setdefault("Other", []).append(("--version", "Show the version and exit."))
        if ctx.info_name == START:
            groups["Commands"] = [
                (name, one.get_short_help_str(limit=60))
                for name, one in command.commands.items()
                if not one.hidden
            ]
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class _Group(click.Group):
    """The command without a subcommand starts the server; its options may stand before one."""

    command_class = _Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        name, rest = _arranged(args)
        if "--version" in rest:
            return super().parse_args(ctx, ["--version"])
        if name is not None and name not in self.commands:
            _refuse_unknown_flag(rest, ctx)
            known = ", ".join(one for one, it in self.commands.items() if not it.hidden)
            raise click.UsageError(f"unknown command {name!r}; the commands are {known}", ctx)
        return super().parse_args(ctx, [name or START, *rest])


def _arranged(args: list[str]) -> tuple[str | None, list[str]]:
    """
    Return the command among *args*, and the rest with --no_x written as --x=false.

    The command is the first word that is not the value of an option: an app may be named serve.
    """
    name: str | None = None
    rest: list[str] = []
    waiting: Option | None = None  # the option whose value the next word may be
    for arg in args:
        taken = waiting is not None and _is_value(waiting, arg)
        if waiting is not None and not taken:
            rest[-1] += "=true"  # otherwise the next word would be read as its value
        waiting = None
        if not taken and arg.startswith("-"):
            flag = arg.removeprefix("--").replace("-", "_")
            waiting = _option_of(flag)
            switch = FLAGS.get(flag.removeprefix("no_"))
            if waiting is None and switch is not None and switch.kind is bool:
                rest.append(f"{switch.flag}=false")
                continue
        elif not taken and name is None:
            name = arg
            continue
        rest.append(arg)
    if waiting is not None and waiting.kind is bool:
        rest[-1] += "=true"
    return name, rest


def _option_of(flag: str) -> Option | None:
    """Return the option that *flag*, without its dashes, sets: this server's or AnyCable's."""
    own = FLAGS.get(flag)
    return own if own is not None or flag not in ANYCABLE_OPTIONS else ANYCABLE_OPTIONS[flag].option


def _refuse_unknown_flag(args: list[str], ctx: click.Context) -> None:
    """Raise NoSuchOption for an unknown flag: the word that is no command is then its value."""
    for arg in args:
        flag = arg.removeprefix("--").partition("=")[0].replace("-", "_")
        if arg.startswith("--") and flag not in ("help", "version") and _option_of(flag) is None:
            close = difflib.get_close_matches(flag, FLAGS, n=1)
            likely = [f"--{one}" for one in close]
            raise click.NoSuchOption(arg.partition("=")[0], possibilities=likely, ctx=ctx)


def _is_value(one: Option, word: str) -> bool:
    """Return whether *word* is the value of the option; a switch accepts one, but needs none."""
    if one.kind is not bool:
        return True
    try:
        one.parse(word)
    except ValueError:
        return False
    return True


def _help_of(one: Option) -> str:
    default = text_of(one, one.default)
    parts = [one.sentence]
    if one.choices:
        parts.append(f"One of {', '.join(one.choices)}.")
    if default:
        parts.append(f"Default: {default}{' ' + one.unit if one.unit else ''}.")
    parts.append(f"[{', '.join(one.variables)}]")
    return " ".join(parts)


def _flags(one: Option) -> list[str]:
    names = (one.name, *one.aliases)
    spellings = dict.fromkeys(f"--{name}" for it in names for name in (it, it.replace("_", "-")))
    return [*spellings, one.name]


def _click_option(one: Option, *, hidden: bool = False) -> Callable[[F], F]:
    text = None if hidden else _help_of(one)
    if one.kind is bool:
        # With a value or without: --debug, --debug=false.
        return click.option(
            *_flags(one),
            is_flag=False,
            flag_value="true",
            metavar="[BOOL]",
            help=text,
            hidden=hidden,
        )
    metavar = {int: "NUMBER", float: "SECONDS", tuple: "LIST"}.get(one.kind, "TEXT")
    return click.option(*_flags(one), metavar=metavar, help=text, hidden=hidden)


def _with_options(command: F) -> F:
    for other in ANYCABLE_OPTIONS.values():
        command = _click_option(other.option, hidden=True)(command)
    for one in reversed(OPTIONS.values()):
        command = _click_option(one)(command)
    return command


def _loader(values: dict[str, Any]) -> Callable[[], Config]:
    """Return a function that loads the configuration; all calls use the same generated app."""
    flags = {name: value for name, value in values.items() if value is not None}
    generate_app = cache(partial(development.generate_app, secrets.randbits))
    return partial(load, flags, os.environ, generate_app=generate_app)


@click.group(cls=_Group, add_help_option=True)
@click.version_option(__version__, message=f"heliograph %(version)s{_COMPILED}")
@click.pass_context
def command(ctx: click.Context) -> None:
    """A self-hosted realtime server: a drop-in replacement for Pusher Channels."""
    if ctx.obj is not None and ctx.invoked_subcommand != START:
        ctx.obj()


@command.command(START, epilog=EPILOG)
@_with_options
def serve(**values: Any) -> int:
    """Start the server. This is the default command."""
    from heliograph import process  # noqa: PLC0415 - the other commands need no server

    reload = _loader(values)
    return process.run(reload(), reload, development.snippets)


@command.command("check-config", epilog=EPILOG)
@_with_options
def check_config(**values: Any) -> int:
    """Check the configuration; print it with the source of each value, without secrets."""
    from heliograph import prerequisites  # noqa: PLC0415 - the other commands need no machine

    config = _loader(values)()
    prerequisites.check(config)
    click.echo(show.describe(config), nl=False)
    for warning in config.warnings:
        click.echo(f"warning: {warning}", err=True)
    return 0


@command.command("sample-config")
def sample_config() -> int:
    """Print a configuration file with every option."""
    click.echo(show.sample(), nl=False)
    return 0


@command.command("doctor", epilog=EPILOG)
@click.argument("url", required=False)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Seconds that a client stays connected to URL, to measure the idle time-outs of proxies;"
    " 100 finds those of a minute.",
)
@click.option("--origin", metavar="TEXT", help="Origin header of that client.")
@_with_options
def examine(url: str | None, wait: float, origin: str | None, **values: Any) -> int:
    """Check this machine, and with URL the way through proxies to a running server."""
    from heliograph.cli import doctor  # noqa: PLC0415 - the other commands need no doctor

    found = doctor.examine(_loader(values)(), url, wait_s=wait, origin=origin)
    return doctor.report(found, click.echo)


@command.command("metrics-table", hidden=True)
def metrics_table() -> int:
    """Print the metrics as the documentation shows them."""
    click.echo(metrics.table(), nl=False)
    return 0


@command.command("options-table", hidden=True)
def options_table() -> int:
    """Print the options as docs/options.md shows them."""
    click.echo(show.options_table(), nl=False)
    return 0


def main(
    arguments: list[str] | None = None, *, not_a_server: Callable[[], object] | None = None
) -> None:
    """Run the command, and exit with its status; *not_a_server* is called before all but one."""
    try:
        status = command.main(
            arguments, prog_name="heliograph", standalone_mode=False, obj=not_a_server
        )
    except click.ClickException as error:
        status = _complain(error.format_message())
    except (ConfigError, HeliographError) as error:
        status = _complain(str(error))
    except click.Abort:
        status = 130
    except BrokenPipeError:
        # The reader of the output closed the pipe; Python would print an error at exit, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def _complain(problem: str) -> int:
    click.echo(f"heliograph: error: {' '.join(problem.split())}", err=True)
    return 2
