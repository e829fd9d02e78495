"""What several nodes share: subscriptions, presence, kept events. One port, several engines."""
