"""The apps of this server process, and who is connected to them."""
