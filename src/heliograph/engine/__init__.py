"""What several nodes share: bus, presence, occupancy, cached events. One port, several engines."""
