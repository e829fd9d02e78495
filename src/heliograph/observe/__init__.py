"""What operators see of a server: its metrics and its log."""
