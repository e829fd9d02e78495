"""The configuration: options, where their values come from, and the apps."""
