"""Channels and signed-in users of this node. Pure: no JSON, no sockets, no time, no other nodes."""
