"""
Render the documents to HTML, about as code hosts show them, to see how wide they are.

    python -m tests.docs.pages FOLDER

writes each page into FOLDER, with pictures of it at 900 and 400 pixels. Needs what the tests in
`tests/clients` need.
"""

import json
import subprocess
import sys
from pathlib import Path

from markdown_it import MarkdownIt

from tests.clients.javascript import NODE_FOLDER, find_chromium, find_node
from tests.docs.commands import DOCUMENTS, ROOT

TIMEOUT_S = 100

STYLE = """
body { max-width: 900px; margin: 0 auto; padding: 16px; box-sizing: border-box;
       font: 16px/1.5 "Noto Sans", Helvetica, Arial, sans-serif; color: #1f2328;
       overflow-wrap: break-word }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: 0.3em }
img { max-width: 100% }
pre { overflow: auto; padding: 16px; background: #f6f8fa; font-size: 85%; line-height: 1.45 }
code { font-family: "DejaVu Sans Mono", monospace; font-size: 85%; background: #f0f1f3 }
pre code { font-size: 100%; background: none }
table { border-collapse: collapse }
td, th { border: 1px solid #d1d9e0; padding: 6px 13px; vertical-align: top }
"""

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def html(path: Path) -> str:
    """Return a document as a page of HTML."""
    base = path.parent.as_uri()
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{path.name}</title>'
        f'<base href="{base}/"><style>{STYLE}</style><body>{MARKDOWN.render(path.read_text())}'
    )


def page_name(path: Path) -> str:
    """Return the name of the file that a document is rendered to."""
    return "-".join(path.relative_to(ROOT).with_suffix(".html").parts)


def render(folder: Path) -> None:
    """Write all documents into *folder*."""
    for path in DOCUMENTS:
        (folder / page_name(path)).write_text(html(path))


def too_wide(folder: Path, width: int, *options: str) -> dict[str, list[str]]:
    """Return, for each page in *folder*, what is wider than a window of *width* pixels."""
    done = subprocess.run(
        [find_node(), "page_widths.js", find_chromium(), str(width), str(folder), *options],
        cwd=NODE_FOLDER,
        check=True,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT_S,
    )
    measured: dict[str, list[str]] = json.loads(done.stdout)
    return measured


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True, exist_ok=True)
    render(target)
    for pixels in (900, 400):
        for name, elements in too_wide(target, pixels, "shots").items():
            sys.stdout.writelines(f"{pixels} {name}: {one}\n" for one in elements)
