"""A plugin for pytest: hypothesis tries less, and the same each time, since it is asked often."""

from hypothesis import settings

settings.register_profile("mutate", max_examples=30, derandomize=True, deadline=None, database=None)
settings.load_profile("mutate")
