"""Sockets: the thin shells around the pure parts."""
