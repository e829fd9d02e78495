"""
Warnings about environment variables with names like options of this server that set nothing.

Knows the names that Kubernetes gives to variables of a Service, and finds misspelled names. Values
are read in `sources`.
"""

import re
from collections.abc import Collection, Mapping

from heliograph.config.options import suggestion

PREFIX = "HELIOGRAPH_"
READ_PREFIXES = (PREFIX, "ANYCABLE_")
"""Prefixes of variables that are meant for the server."""

OURS = (PREFIX, "PUSHER_APP_", "ANYCABLE_PUSHER_")
"""Prefixes of the variables that configure this server or an app of it."""

OTHERS = {"SOKETI_": "soketi", "REVERB_": "reverb"}
"""Prefixes of the variables of other servers, and the page about moving from each."""

_SERVICE_NAME = re.compile(
    r"\w+_SERVICE_HOST|\w+_SERVICE_PORT(_\w+)?|\w+_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
)
_SERVICE_PORT = re.compile(r"(tcp|udp|sctp)://.*")


def is_of_service(name: str, value: str) -> bool:
    """
    Return whether Kubernetes sets the variable for a Service, in each container of its namespace.

    A Service named heliograph sets HELIOGRAPH_PORT=tcp://10.0.0.1:8080. Source:
    https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    if not name.startswith(READ_PREFIXES):
        return False
    if _SERVICE_NAME.fullmatch(name):
        return True
    return name.endswith("_PORT") and _SERVICE_PORT.fullmatch(value) is not None


def without_services(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return *environ* without the variables of Kubernetes' Services, and their names."""
    kept, services = {}, []
    for name, value in environ.items():
        if is_of_service(name, value):
            services.append(name)
        else:
            kept[name] = value
    return kept, sorted(services)


def warnings(
    environ: Mapping[str, str], services: Collection[str], known: Collection[str]
) -> list[str]:
    """
    Return a line for each kind of variable of *environ* that sets nothing.

    *known* are the names of the others. *services* are those that `without_services` removed.
    """
    lines = []
    if services:
        lines.append(
            f"{_few(services)}: set by Kubernetes for a Service, ignored"
            " (enableServiceLinks: false in the pod turns these variables off)"
        )
    for name in sorted(environ):
        if name.startswith(READ_PREFIXES) and name not in known and environ[name]:
            hint = suggestion(name, sorted(known), cutoff=0.8)
            lines.append(f"{name}: unknown environment variable, ignored{hint}")
    # Many platforms set PORT.
    if not any(environ.get(name) for name in known if name.startswith(OURS)):
        for prefix, server in OTHERS.items():
            found = sorted(name for name in environ if name.startswith(prefix))
            if found:
                lines.append(
                    f"{_few(found)}: not read by this server; docs/coming-from/{server}.md lists"
                    " the names to use instead"
                )
    return lines


def _few(names: Collection[str]) -> str:
    first = list(names)[:3]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
