"""The benchmark: Heliograph, or any Pusher server, beside the plainest server that can exist."""
