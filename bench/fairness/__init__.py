"""How long a client waits while others attack the server: `make fairness`."""
