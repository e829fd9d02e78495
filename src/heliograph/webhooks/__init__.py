"""
Webhooks: an app's own server is told what happens in the app.

    happening → beliefs (is it news, and now?) → outbox of each receiver (batch, order)
               → store (kept before it is sent) → sender (POST) → outbox (done, or again later)

`payload`, `beliefs` and `schedule` are pure; `hooks` ties everything together.
"""

from heliograph.webhooks.hooks import Counters, Webhooks
from heliograph.webhooks.schedule import Limits
from heliograph.webhooks.store import MemoryStore, SqliteStore, Store

__all__ = ["Counters", "Limits", "MemoryStore", "SqliteStore", "Store", "Webhooks"]
