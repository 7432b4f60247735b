"""A Sphinx extension: what the live attack loads is written into the built site, and its slider into its page.

The slider is the first of chapter 1, as it stands there; a reader sees it where the live attack cannot run.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = "_static/live"
SLIDER = '<div class="live-slider"></div>'
CHAPTER = "book/01-adversarial-examples.ipynb"
RUNTIME = ".ort/node_modules/onnxruntime-web/dist"


def slider(chapter: Path) -> str:
    """The first slider of a notebook's outputs, as HTML; empty where there is none."""
    if not chapter.exists():
        return ""
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    shown = ("".join(o.get("data", {}).get("text/html", "")) for cell in cells for o in cell.get("outputs", ()))
    return next((text for text in shown if "aalp-slider" in text), "")


def put_slider(app: Any, name: str, source: list[str]) -> None:
    """Where a page has the place for it."""
    if SLIDER in source[0]:
        source[0] = source[0].replace(SLIDER, slider(Path(app.srcdir) / CHAPTER))


def export(app: Any, error: Exception | None) -> None:
    """Write the networks, the digits and the runtime; leave them where they already are."""
    home = Path(app.outdir) / FOLDER
    made = app.builder.format != "html" or "book/live" not in app.env.found_docs or (home / "live.json").exists()
    if error is not None or made:
        return
    from aalp_lib.book import browser

    runtime = Path(app.srcdir) / RUNTIME
    browser.write(home, runtime if runtime.is_dir() else None)


def setup(app: Any) -> dict[str, bool]:
    """Say when to do so: as pages are read, and after the last one."""
    app.connect("source-read", put_slider)
    app.connect("build-finished", export)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
