"""Bytes of the RFCs. Pure, and ignorant of what is said with them."""
