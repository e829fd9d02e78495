"""Sockets and connections: the I/O around the parsers and the node, which do no I/O."""
