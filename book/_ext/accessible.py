"""A Sphinx extension: mend what the theme's pages say to a screen reader. axe-core finds it, in tests/test_pages.py.

A label in the markup hides the text of a button from who cannot see it: what is folded would always be called "Toggle
hidden content", and who says "Search Ctrl K" to a computer that listens would not reach that button. The icons of the
colour switch name the mode that is on, inside a button that has a name. A list of references has entries of a list.
"""

import re
from pathlib import Path
from typing import Any

MENDED = (
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    (r'(<button class="btn search-button-field[^>]*) aria-label="Search"', r"\1"),
    (r'(<div class="citation" id="[^"]*" role=)"doc-biblioentry"', r'\1"listitem"'),
    (r'(<i class="theme-switch[^>]*?)\s+title="[^"]*"', r"\1"),
)


def mend(app: Any, error: Exception | None) -> None:
    """Write the pages again, mended."""
    if error is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            page = before = path.read_text(encoding="utf-8")
            for pattern, instead in MENDED:
                page = re.sub(pattern, instead, page)
            if page != before:
                path.write_text(page, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Say when to do so: after the last page."""
    app.connect("build-finished", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
