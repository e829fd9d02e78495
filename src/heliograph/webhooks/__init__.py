"""
Webhooks: an app's own server is sent what changes in the app.

    owed changes → reported state (is it news, and now?) → outbox of each receiver (batch, order)
        → store (kept before it is sent, with the marks) → sender (POST) → outbox (done, or retried)
                         └→ settled

`payload`, `reported`, `counts`, `progress` and `schedule` are pure; `hooks` connects all parts.
"""

from heliograph.webhooks.courier import DeliveryCounters, Webhooks
from heliograph.webhooks.schedule import Limits
from heliograph.webhooks.store import MemoryStore, SqliteStore, Store

__all__ = ["DeliveryCounters", "Limits", "MemoryStore", "SqliteStore", "Store", "Webhooks"]
