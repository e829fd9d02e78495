"""
A page of docs/frameworks, and the project that a reader makes of it.

A code block that starts with the name of a file, as a comment, is that file. The blocks of the
language "sh" have the commands. Only the ports are changed: 8080 becomes the port of the test's
server, and 8000 becomes 0, so that the application takes a free port and prints it.
"""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "frameworks"

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE_NAME = re.compile(r"(?:# |// |<!-- )([\w./-]+\.\w+)(?: -->)?\n")


class Page:
    """The parts of a page that can be run."""

    def __init__(self, name: str) -> None:
        self.text = (DOCS / f"{name}.md").read_text(encoding="utf-8")

    def commands(self, heading: str) -> list[str]:
        """Return the lines of the shell blocks under *heading*; "" is the page's beginning."""
        section = self.text if not heading else self.text.partition(f"\n## {heading}\n")[2]
        section = section.partition("\n## ")[0]
        blocks = [text for language, text in BLOCK.findall(section) if language == "sh"]
        return [line for block in blocks for line in block.splitlines()]

    def files(self) -> list[tuple[str, str]]:
        """Return name and text of each block that is a file, in the page's order."""
        texts = [text for _, text in BLOCK.findall(self.text)]
        return [(named[1], text) for text in texts if (named := FILE_NAME.match(text))]

    def write(self, folder: Path, port: int) -> None:
        """Write the files, with *port* as Heliograph's; Django's settings are added to."""
        for name, text in self.files():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            before = file.read_text(encoding="utf-8") if file.name == "settings.py" else ""
            file.write_text(before + text.replace("8080", str(port)), encoding="utf-8")
