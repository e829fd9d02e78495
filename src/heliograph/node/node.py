"""
The node: all apps of this server process, each a Tenant.

Knows apps and their keys, and admits clients. Knows no protocol, and nothing of bytes, sockets or
HTTP.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from heliograph.config.apps import Apps, HistoryRule
from heliograph.engine.base import Engine
from heliograph.hub.channel import Counters
from heliograph.hub.facts import Event, Fact, Keep
from heliograph.node.dialect import Ending, NotAdmitted, Session
from heliograph.node.journal import Journal
from heliograph.node.policy import Policy
from heliograph.node.tenant import Tenant, Timing, close_sessions, short
from heliograph.observe.log_throttle import Summary
from heliograph.observe.metrics import Tally
from heliograph.origins import origin_allowed
from heliograph.slices import Slices

logger = logging.getLogger(__name__)

LOGGED_OF_KEY = 8
"""Characters of a key that are logged; a client may send a secret as its key."""


CACHE = Keep(1, 1800)
"""The default for channels that keep an event: one event, for half an hour."""


class VerboseTenant(Tenant):
    """A Tenant that logs the events that have no subscriber on this node."""

    def deliver(self, fact: Fact, /) -> None:
        """Take a fact of a channel, and log an event that has no subscriber on this node."""
        if isinstance(fact, Event) and fact.channel not in self.hub:
            logger.debug(
                "app %s: channel %s has no subscribers; event %s was not delivered",
                self.app.id,
                short(fact.channel),
                short(fact.name or ""),
            )
        super().deliver(fact)


class Node:
    """
    This server's apps, each a Tenant.

    *random_bits* returns the given number of random bits as an integer. Ids of sessions are made of
    them, and signatures contain these ids, so the bits must not be guessable. *keep* applies to
    cached channels, *every* to the history of channels for which their app has no rule. *journal*
    has the observers. *policy* is asked before each subscription; without one, signatures alone
    decide. *shuffle* brings a list into a random order. With *verbose*, the node logs the events
    that have no subscriber on this node.
    """

    def __init__(
        self,
        apps: Apps,
        engine: Engine,
        timing: Timing,
        random_bits: Callable[[int], int],
        *,
        keep: Keep = CACHE,
        every: HistoryRule | None = None,
        journal: Journal | None = None,
        policy: Policy | None = None,
        shuffle: Callable[[list[Any]], object] = list,
        verbose: bool = False,
    ) -> None:
        self.counters = Counters()
        self.tally = Tally()
        # Log lines that are summed, because clients can cause any number of them.
        # Each kind has its own Summary, so that one does not hide the first line of another.
        self._failures = Summary(logger, logging.INFO, timing.later)
        self._refused_clients = Summary(logger, logging.INFO, timing.later)
        self.refusals = Summary(logger, logging.INFO, timing.later)
        self.outages = Summary(logger, logging.WARNING, timing.later)
        self.faults = Summary(logger, logging.ERROR, timing.later)
        self.random_bits = random_bits
        self._slices = Slices(timing.soon, timing.now, self.faults.fault)
        self._new_tenant = partial(
            VerboseTenant if verbose else Tenant,
            engine=engine,
            timing=timing,
            counters=self.counters,
            tally=self.tally,
            failures=Summary(logger, logging.INFO, timing.later),
            outages=self.outages,
            faults=self.faults,
            keep=keep,
            every=every,
            journal=journal or Journal(),
            policy=policy,
            slices=self._slices,
            shuffle=shuffle,
        )
        self._tenants: dict[str, Tenant] = {}
        # Removed apps: their sessions may still be closing, and an app gets its space only once.
        self._retired: dict[str, Tenant] = {}
        self._by_key: dict[str, Tenant] = {}
        self.generation = 0  # the number of calls of configure: changes with each key and secret
        self._engine = engine
        self.configure(apps)

    def configure(self, apps: Apps) -> None:
        """
        Serve *apps* from now on.

        A changed setting of an app applies at once to later requests and messages of its clients.

        The clients of an app that was removed or switched off are disconnected, many of them in
        slices; new clients are refused at once. Clients of a removed app receive nothing more. If
        the app is configured again before all of them are disconnected, its Tenant is used again:
        the remaining clients receive events until they are disconnected, too.
        """
        before, self._tenants = self._tenants, {}
        for app in apps:
            tenant = before.pop(app.id, None) or self._retired.pop(app.id, None)
            if tenant is None:
                tenant = self._new_tenant(app)
            else:
                tenant.configure(app)
            self._tenants[app.id] = tenant
        for tenant in before.values():
            tenant.retired = True
        self._retired.update(before)
        self._by_key = {
            key.key: tenant for tenant in self._tenants.values() for key in tenant.app.keys
        }
        self.generation += 1
        gone = [*before.values(), *(one for one in self._tenants.values() if not one.app.enabled)]
        for tenant in gone:
            tenant.close(Ending.APP_DISABLED)

    def tenant(self, app_id: str) -> Tenant | None:
        """Return the app with this id."""
        return self._tenants.get(app_id)

    def tenant_of_key(self, key: str) -> Tenant | None:
        """Return the app that owns this key."""
        return self._by_key.get(key)

    def tenants(self) -> Iterable[Tenant]:
        """Return all apps."""
        return self._tenants.values()

    def request_failed(self, app_id: str | None, key: str | None, reason: str) -> None:
        """
        Log that a request of the HTTP API had no valid signature.

        The operator can correct that, so it must be in the log. *app_id* and *key* come from an
        unknown client and are not logged unless they are known; *reason* is one of a fixed set.
        """
        owner = None if key is None else self._by_key.get(key)
        tenant = owner or (None if app_id is None else self._tenants.get(app_id))
        subject = "unknown app" if tenant is None else f"app {tenant.app.id}"
        if owner is None and key is not None:
            reason = "unknown key"
        elif owner is not None and app_id is not None and owner.app.id != app_id:
            reason = "its key was used with the id of another app"
        self._failures.note(subject, f"an API request was refused: {reason}")

    def events_evicted(self, app_id: str, count: int) -> None:
        """Count and log that *count* kept events of an app were removed before they expired."""
        self.tally.events_evicted += count
        reason = "the kept events exceed --history_max_bytes; the oldest are removed"
        self.outages.note(f"app {app_id}", reason)

    @property
    def engine_available(self) -> bool:
        """Whether the engine is available."""
        return self._engine.available

    @property
    def connections(self) -> int:
        """The number of sessions of all apps."""
        return sum(len(tenant.sessions) for tenant in self._tenants.values())

    def admit(self, key: str, origin: str | None, address: Callable[[], str]) -> Tenant:
        """
        Return the app that owns *key*, for a client of *origin*. Raises NotAdmitted.

        A wrong key in a page, and a page of another site, are counted and logged, since an operator
        can correct them. A client can cause any number of these log lines: only the first line of a
        minute has the client's *address*, which is called only for that line.
        """
        tenant = self._by_key.get(key)
        if tenant is None:
            self.tally.unknown_keys += 1
            reason = f"unknown key {short(key, LOGGED_OF_KEY)}"
            self._note_not_admitted("unknown app", reason, address)
            raise NotAdmitted(NotAdmitted.Why.UNKNOWN_KEY)
        app = tenant.app
        if not app.enabled:
            raise NotAdmitted(NotAdmitted.Why.APP_DISABLED)
        if app.allowed_origins and not origin_allowed(origin, app.allowed_origins):
            self.tally.refused_origins += 1
            page = "no Origin header" if origin is None else f"origin {short(origin)}"
            reason = f"{page} is not in allowed_origins"
            self._note_not_admitted(f"app {app.id}", reason, address)
            raise NotAdmitted(NotAdmitted.Why.ORIGIN)
        if app.max_connections and len(tenant.sessions) >= app.max_connections:
            raise NotAdmitted(NotAdmitted.Why.QUOTA)
        return tenant

    def _note_not_admitted(self, subject: str, reason: str, address: Callable[[], str]) -> None:
        reason = f"a client was refused: {reason}"
        if self._refused_clients.first(subject, reason):
            logger.info("%s: %s (from %s)", subject, reason, address())

    def sessions(self) -> list[Session]:
        """Return the sessions of all apps."""
        return [one for tenant in self._tenants.values() for one in tenant.sessions.values()]

    def close_each(
        self,
        sessions: Sequence[Session],
        ending: Ending,
        then: Callable[[], object] = lambda: None,
    ) -> None:
        """Close *sessions*, many of them in slices, and call *then*."""
        close_sessions(self._slices, "closings", sessions, ending, then)

    def close(self, ending: Ending, then: Callable[[], object] = lambda: None) -> None:
        """Close every session, many of them in slices, and call *then*."""
        self.close_each(self.sessions(), ending, then)

    def finish(self) -> None:
        """Do all remaining work in slices at once. For a server that stops."""
        self._slices.finish()
