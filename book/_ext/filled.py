"""A Sphinx extension: fill numbers, tables and verdicts from the records into pages that are templates.

A page with `{{ ... }}` in it is rendered as `report.rendered` does, with `results` and `drawings` of `aalp_lib.book`
besides. Places in those tables can be linked as headings are: `results.md#order-mnist`.
"""

import re
from pathlib import Path
from typing import Any

from aalp_lib.book import drawings, results
from aalp_lib.reproduction import report


def fill(app: Any, name: str, source: list[str]) -> None:
    """Render a Markdown page that asks for it."""
    if Path(app.env.doc2path(name)).suffix == ".md" and "{{ " in source[0]:
        source[0] = report.rendered(source[0], results=results, drawings=drawings)
        places = re.findall(r'<(?:div class="aalp-table"|span) id="([\w-]+)"', source[0])
        app.env.metadata[name]["aalp_places"] = places


def know(app: Any, doctree: Any) -> None:
    """Let links to places be resolved as links to headings are: place -> line, name in the page, words."""
    known = app.env.metadata[app.env.docname]
    for place in known.pop("aalp_places", ()):
        known.setdefault("myst_slugs", {})[place] = (0, place, place)


def setup(app: Any) -> dict[str, bool]:
    """Say when to do so."""
    app.connect("source-read", fill)
    app.connect("doctree-read", know)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
