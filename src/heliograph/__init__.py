"""Heliograph: a self-hosted realtime server that speaks Pusher Channels."""

__version__ = "0.1.0"
__all__ = ["__version__"]
