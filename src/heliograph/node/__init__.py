"""The apps of this server process, and the sessions of their clients."""
