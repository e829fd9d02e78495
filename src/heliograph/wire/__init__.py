"""The formats of the RFCs, from bytes and to bytes, without I/O and without higher protocols."""
