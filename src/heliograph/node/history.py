"""
Which channels of an app keep events, how many, and which of them new subscribers receive.

Knows the rules of the configuration, not the events: the engine keeps them.
"""

from typing import Final

from heliograph.config.apps import HistoryRule
from heliograph.engine.answers import Rewind
from heliograph.hub.facts import Keep


class History:
    """
    The history of the channels of one rule. One object for each rule and configuration.

    *rewind* is the part that a new subscriber receives unless it asks for another one; None if it
    receives no earlier events. With *positions*, clients and publishers may ask for positions, and
    read the history.
    """

    __slots__ = ("keep", "positions", "rewind")

    def __init__(self, keep: Keep, rewind: Rewind | None = None, *, positions: bool = True) -> None:
        self.keep: Final = keep
        self.rewind: Final = rewind
        self.positions: Final = positions


class Histories:
    """
    The histories of an app's channels, by the names of the channels.

    *rules* are those of the app, *every* is the rule of all other channels, if they keep events.
    Cached channels always keep their last event, by *cache*.
    """

    __slots__ = ("_by_prefix", "_cached", "_every", "_every_cached", "_prefixes", "any")

    def __init__(
        self, rules: tuple[HistoryRule, ...], every: HistoryRule | None, cache: Keep
    ) -> None:
        self.any = every is not None or bool(rules)
        """Whether any channel keeps events beside the last event of cached channels."""
        self._cached = History(cache, Rewind(count=1), positions=False)
        self._every = None if every is None else _history(every)
        self._every_cached = self._cached
        if every is not None:
            # As long as without the rule for every channel, or longer.
            keep = Keep(every.limit, max(every.ttl, cache.ttl_s))
            self._every_cached = History(keep, Rewind(count=1))
        longest_first = sorted(rules, key=lambda rule: len(rule.prefix), reverse=True)
        self._by_prefix = [(rule.prefix, *_of_prefix(rule, self._cached)) for rule in longest_first]
        self._prefixes = tuple(rule.prefix for rule in longest_first)

    def of(self, channel: str, *, cached: bool) -> History | None:
        """Return the history of *channel*, which no user has for itself; None if it has none."""
        if self._prefixes and channel.startswith(self._prefixes):
            for prefix, history, for_cached in self._by_prefix:
                if channel.startswith(prefix):
                    return for_cached if cached else history
        return self._every_cached if cached else self._every


def _history(rule: HistoryRule) -> History | None:
    if not rule.limit:
        return None
    rewind = None
    if rule.rewind_count or rule.rewind_s:
        rewind = Rewind(rule.rewind_count, rule.rewind_s)
    return History(Keep(rule.limit, rule.ttl), rewind)


def _of_prefix(rule: HistoryRule, cached: History) -> tuple[History | None, History]:
    """Return the histories of a rule's channels: without and with a cache."""
    history = _history(rule)
    if history is None:
        return None, cached
    return history, History(history.keep, history.rewind or Rewind(count=1))
