"""The protocols that clients speak, one folder each, and the JSON that they share."""
