"""The chapters' Markdown in two forms, and a Sphinx extension that turns the one in the notebooks into the pages' own.

Authors write MyST: `{eq}`, `{cite:p}`, labels behind formulas, links to the file next door. Colab and GitHub
know none of it. So a notebook holds plain Markdown with the numbers, names and whole addresses in it, which reads the
same everywhere; each piece keeps what is needed to turn it back. `scripts/notebooks.py` writes it when it stamps.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BOOK = Path(__file__).resolve().parents[1]
COLAB = "https://colab.research.google.com/github"
LABEL = re.compile(r"^\$\$ \((eq-[a-z0-9-]+)\)$", re.MULTILINE)

NATIVE = (  # what a notebook holds, and the MyST that it stands for
    (r"^\\tag\{[\d.]+\} % (eq-[a-z0-9-]+)\n\$\$$", r"$$ (\1)"),
    (r"\[\([\d.]+\)\]\(#(eq-[a-z0-9-]+)\)", r"{eq}`\1`"),
    (r"\[[^\[\]]*\]\(https://[^()\s]+/book/references\.bib#([pt])-([a-z0-9,]+)\)", r"{cite:\1}`\2`"),
    (r"(?<!\))\]\(" + COLAB + r"/[^()\s]+/book/([\w-]+\.ipynb)\)", r"](\1)"),
    (r"\]\(https://[^()\s]+/book/([\w-]+)\.html((?:#[^()\s]*)?)\)", r"](\1.md\2)"),
    (r"\]\(https://[^()\s]+/book/_static/(\w+\.svg)\)", r"](_static/\1)"),
)


STATE = re.compile(r"\[([^\[\]]+)\]\((live|results)\.md#([^()\s]+)\)")  # a state of the live attack, rows of a table


def site(address: str) -> str:
    """Where the pages of a repository at GitHub are published."""
    owner, name = address.removeprefix("https://github.com/").split("/")
    return f"https://{owner}.github.io/{name}"


def opened(match: re.Match[str]) -> str:
    """A link that opens the live attack or a table's rows, as HTML: Sphinx knows of no such place in the page."""
    state = match[3].replace("&", "&amp;")
    return f'<a href="{match[2]}.html#{state}">{match[1]}</a>'


def names() -> dict[str, tuple[str, str]]:
    """Of each source, who wrote it ("Madry et al.") and when, from `references.bib`."""
    found = {}
    for entry in (BOOK / "references.bib").read_text(encoding="utf-8").split("\n@"):
        key = re.search(r"\{(\w+),", entry)
        authors = re.search(r"author = \{(.+?)\}", entry)
        year = re.search(r"year = \{(\d+)\}", entry)
        if key and authors and year:
            last = [name.split(",")[0] for name in authors[1].split(" and ")]
            found[key[1]] = (" and ".join(last) if len(last) < 3 else f"{last[0]} et al."), year[1]
    return found


def native(text: str) -> str:
    """The MyST of a notebook's Markdown; of MyST, the same text."""
    for pattern, instead in NATIVE:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text


def portable(text: str, numbers: Mapping[str, str], address: str, branch: str) -> str:
    """The plain Markdown of an author's MyST.

    Parameters
    ----------
    text : str
    numbers : mapping
        Label of an equation -> its number in the pages, such as 6.1.
    address, branch : str
        Of the repository at GitHub.
    """
    blob, place = f"{address}/blob/{branch}/book", address.removeprefix("https://github.com/")
    sources = names()

    def cited(match: re.Match[str]) -> str:
        keys = match[2].split(",")
        if match[1] == "t":
            words = ", ".join("{} ({})".format(*sources[key]) for key in keys)
        else:
            words = "(" + "; ".join("{}, {}".format(*sources[key]) for key in keys) + ")"
        return f"[{words}]({blob}/references.bib#{match[1]}-{match[2]})"

    text = LABEL.sub(lambda m: f"\\tag{{{numbers[m[1]]}}} % {m[1]}\n$$", text)
    text = re.sub(r"\{eq\}`([a-z0-9-]+)`", lambda m: f"[({numbers[m[1]]})](#{m[1]})", text)
    text = re.sub(r"\{cite:([pt])\}`([a-z0-9,]+)`", cited, text)
    text = re.sub(r"\]\(([\w-]+\.ipynb)\)", rf"]({COLAB}/{place}/blob/{branch}/book/\1)", text)
    text = re.sub(r"\]\(([\w-]+)\.md((?:#[^()\s]*)?)\)", rf"]({site(address)}/book/\1.html\2)", text)
    raw = f"https://raw.githubusercontent.com/{place}/{branch}/book"
    return re.sub(r"\]\(_static/(\w+\.svg)\)", rf"]({raw}/_static/\1)", text)


def numbered(cells: list[str], chapter: int) -> dict[str, str]:
    """The numbers that Sphinx gives to the equations of a chapter, from its Markdown in either form."""
    labels = [label for text in cells for label in LABEL.findall(native(text))]
    return {label: f"{chapter}.{place}" for place, label in enumerate(labels, 1)}


def read(app: Any, name: str, source: list[str]) -> None:
    """Turn a notebook's Markdown back before the pages are made of it."""
    if app.env.doc2path(name).endswith(".ipynb"):
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = STATE.sub(opened, native("".join(cell["source"])))
        source[0] = json.dumps(notebook)


def setup(app: Any) -> dict[str, bool]:
    """Say when to do so: when a source has been read."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
