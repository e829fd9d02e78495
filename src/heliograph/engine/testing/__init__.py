"""
The contract suite of engines: for authors of an engine, installed by `heliograph[testing]`.

`suite`, `history_suite`, `machine` and `history_machine` are tests, and import pytest or
Hypothesis. The other modules are a complete engine over one shared state, with links that fail on
request; they need neither.
"""

import sys

if "pytest" in sys.modules:
    # So that a failed assert of the suite shows the difference, as pytest does for other tests.
    # This must precede the import of the suite.
    sys.modules["pytest"].register_assert_rewrite(
        "heliograph.engine.testing.suite", "heliograph.engine.testing.history_suite"
    )
