"""
The contract suite of engines: for authors of an engine, installed by `heliograph[testing]`.

`suite` and `machine` are tests, and import pytest and Hypothesis. The other modules are a complete
engine over one shared state, with links that fail on request; they need neither.
"""
