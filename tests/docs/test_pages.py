"""The documents as they are read: rendered, in a real browser."""

from pathlib import Path

from tests.docs.commands import DOCUMENTS
from tests.docs.pages import page_name, render, too_wide


def test_every_page_fits_900_pixels(tmp_path: Path) -> None:
    render(tmp_path)
    measured = too_wide(tmp_path, 900)
    assert measured.keys() == {page_name(path) for path in DOCUMENTS}
    assert {name: found for name, found in measured.items() if found} == {}


def test_a_table_that_is_too_wide_is_found(tmp_path: Path) -> None:
    cell = "unbreakable" * 20
    (tmp_path / "wide.html").write_text(f"<table><tr><td>{cell}</td></tr></table>")
    (tmp_path / "narrow.html").write_text("<table><tr><td>a cell</td></tr></table>")
    measured = too_wide(tmp_path, 900)
    assert measured["wide.html"]
    assert not measured["narrow.html"]
