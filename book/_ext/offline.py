"""A Sphinx extension: leave out the scripts of Thebe, which would fetch a kernel's parts from elsewhere.

The theme and Jupyter Book both add them, used or not; twice, they also collide in the browser's console.
"""

from typing import Any


def without_thebe(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Drop Thebe's scripts from a page."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in (str(script.filename or "") + str(script.attributes.get("body", ""))).lower()
    ]


def setup(app: Any) -> dict[str, bool]:
    """Say when to do so: after all others have added theirs."""
    app.connect("html-page-context", without_thebe, priority=999)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
