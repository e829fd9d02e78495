"""Who is where on this node. Pure: no JSON, no sockets, no time, no other nodes."""
