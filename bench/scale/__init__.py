"""What more idle clients cost: memory, and the time to connect, reach and drain them."""
