"""
Webhooks: requests to an app's own server about changes in the app.

    owed changes → reported state (is it news, and now?) → outbox of each receiver (batch, order)
        → store (kept before it is sent, with the marks) → sender (POST) → outbox (done, or retried)
                         └→ settled

`payload`, `debounce`, `counts`, `progress` and `schedule` do no I/O; `courier` connects all parts.
"""

from heliograph.webhooks.courier import DeliveryCounters, Webhooks
from heliograph.webhooks.schedule import Limits
from heliograph.webhooks.store import MemoryStore, SqliteStore, Store

__all__ = ["DeliveryCounters", "Limits", "MemoryStore", "SqliteStore", "Store", "Webhooks"]
