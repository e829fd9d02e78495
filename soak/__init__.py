"""
The soak: clients by the thousand that come, go and talk, and books that must balance.

`python -m soak --minutes 20` starts a server of its own, puts the same load on it three times, and
counts: every event that the server accepted, everybody who is present, every webhook, and what the
server still holds once all are gone.
"""
