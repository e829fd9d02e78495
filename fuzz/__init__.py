"""
Hostile bytes for every parser: the frame codec, requests, connections, messages, signatures.

`targets` says what must hold for any bytes, `corpus/` holds bytes worth starting from. `python -m
fuzz` goes on from there for minutes; the tests do so for seconds.
"""
