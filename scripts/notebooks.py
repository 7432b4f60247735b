"""The book's notebooks: run them in place, keep their metadata small, and turn them into text to edit and back.

    python scripts/notebooks.py run [NOTEBOOK ...]       execute, write outputs, stamp and normalise; by default all
    python scripts/notebooks.py stamp [NOTEBOOK ...]     stamp and normalise only
    python scripts/notebooks.py unpack NOTEBOOK TEXT     write the cells as one text file, without outputs
    python scripts/notebooks.py pack TEXT NOTEBOOK       make a notebook of such a file

In a text file a cell begins with a line `%%%% md ID` or `%%%% code ID TAG ...`; ids are names, unique in a notebook.
What a stamp writes is made of the address in `_config.yml`, of the run and of the records: nobody types it. A Markdown
cell with `{{ ... }}` in it is a template, kept in the cell's metadata; the numbers come from `report.context`, and
`link(path)` is the public address of a file of the repository. Text files and templates are MyST; the cells are plain
Markdown, which Colab and GitHub can show (`book/_ext/portable.py`). A code cell that the pages hide or fold begins with
`# @title ...`: Colab shows this line in place of the code.
"""

import os
import re
import resource
import sys
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from nbformat import NotebookNode

from aalp_lib.reproduction import report

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
from portable import native, numbered, portable  # noqa: E402

WORDS_A_MINUTE = 130  # of exact prose with equations and code between
HIDDEN = {"remove-input", "hide-input"}  # sentences with numbers, and drawing: folded in Colab and JupyterLab too


def chapters() -> list[Path]:
    """The book's notebooks in order."""
    return sorted((ROOT / "book").glob("[0-9][0-9]-*.ipynb"))


def repository() -> tuple[str, str]:
    """The repository's public address and branch, from `_config.yml`."""
    found = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    return found["url"], found["branch"]


def version() -> str:
    """The library's version, from its source."""
    found = re.search(r'__version__ = "(.+?)"', (ROOT / "aalp_lib" / "__init__.py").read_text(encoding="utf-8"))
    assert found
    return found[1]


def setup_lines() -> list[str]:
    """The beginning of every chapter's setup cell: it installs on Colab only, and only what is missing."""
    return [
        "import importlib.util, sys  # on Colab, and nowhere else, install what is missing",
        'if importlib.util.find_spec("aalp_lib") is None and "google.colab" in sys.modules:',
        f'    %pip install --quiet "aalp_lib[reproduction] @ git+{repository()[0]}@v{version()}"',
    ]


def link(path: str) -> str:
    """The public address of a file of the repository; templates call it."""
    return "{}/blob/{}/{}".format(*repository(), path)


def equations(notebook: NotebookNode, path: Path) -> dict[str, str]:
    """The number of every equation of the book by its label, with this notebook in place of the one on disk."""
    found: dict[str, str] = {}
    for of in sorted({*chapters(), ROOT / "book" / path.name}):
        cells = (notebook if of.name == path.name else nbformat.read(of, as_version=4)).cells
        found |= numbered([cell.source for cell in cells if cell.cell_type == "markdown"], int(of.name[:2]))
    return found


def badge(path: Path) -> str:
    """The Markdown of the Colab button."""
    address, branch = repository()
    place = address.removeprefix("https://github.com/")
    target = f"https://colab.research.google.com/github/{place}/blob/{branch}/book/{path.name}"
    return f"[![Open in Colab](_static/colab.svg)]({target})"


def time_line(notebook: NotebookNode) -> str:
    """How long the chapter takes to read and to run, from its words and its last run in the quick tier."""
    words = sum(len(cell.source.split()) for cell in notebook.cells)
    reading = f"{5 * round(words / WORDS_A_MINUTE / 5)} minutes to read"
    seconds = notebook.metadata.get("aalp", {}).get("seconds")
    return reading if seconds is None else f"{reading} · runs in about {seconds} s of one CPU core, no GPU needed"


def stamp(notebook: NotebookNode, path: Path) -> None:
    """Write badge, time line and setup lines, and reduce the metadata to what has a use."""
    title = notebook.cells[0].source.split("\n", 1)[0]
    notebook.cells[0].source = f"{title}\n\n{badge(path)}\n\n*{time_line(notebook)}*"
    setup = next(cell for cell in notebook.cells if cell.id == "setup")
    own = [line for line in setup.source.split("\n") if not re.match(r"import importlib|if importlib|    %pip", line)]
    setup.source = "\n".join(setup_lines() + own)
    kept = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    kept |= {"language_info": {"name": "python"}, "aalp": dict(notebook.metadata.get("aalp", {}))}
    notebook.metadata = nbformat.from_dict(kept)
    numbers = equations(notebook, path)
    for cell in notebook.cells:
        template = cell.metadata.get("template")
        if template:
            cell.source = report.rendered(template, link=link)
        if cell.cell_type == "markdown":
            cell.source = portable(native(cell.source), numbers, *repository())
        kept = {key: cell.metadata[key] for key in ("tags", "template") if cell.metadata.get(key)}
        cell.metadata = nbformat.from_dict(kept)
        if HIDDEN & set(kept.get("tags", ())):
            cell.metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}


def run(path: Path) -> None:
    """Execute a notebook in place, from a fresh kernel, top to bottom; an error in a cell ends it."""
    notebook = nbformat.read(path, as_version=4)
    stamp(notebook, path)
    os.environ["AALP_BOOK"] = "1"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    place = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", coalesce_streams=True, resources=place).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    if os.environ.get("AALP_TIER", "quick") == "quick":
        notebook.metadata["aalp"] = {"seconds": max(5, 5 * round(seconds / 5))}
    stamp(notebook, path)
    write(notebook, path)
    print(f"{path.name}: {seconds:.0f} s of CPU time, {output_size(notebook) // 1000} kB of outputs")


def output_size(notebook: NotebookNode) -> int:
    """Bytes of all outputs."""
    return sum(len(nbformat.writes(_only(cell)).encode()) for cell in notebook.cells if cell.get("outputs"))


def _only(cell: NotebookNode) -> NotebookNode:
    return nbformat.v4.new_notebook(cells=[cell])


def write(notebook: NotebookNode, path: Path) -> None:
    """Check the notebook against its schema and write it."""
    names = [cell.id for cell in notebook.cells]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        sys.exit(f"{path.name}: cells need names of their own, not {', '.join(sorted(twice))} twice")
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def unpack(path: Path, text: Path) -> None:
    """Write the cells of a notebook as one text file."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        kind = {"markdown": "md", "code": "code"}[cell.cell_type]
        text_of = cell.metadata.get("template", native(cell.source) if kind == "md" else cell.source)
        parts.append(" ".join(["%%%%", kind, cell.id, *cell.metadata.get("tags", [])]) + "\n" + text_of + "\n")
    text.write_text("\n".join(parts), encoding="utf-8")


def pack(text: Path, path: Path) -> None:
    """Make a notebook, without outputs, of a text file that `unpack` wrote."""
    notebook = nbformat.v4.new_notebook()
    for part in re.split(r"^%%%% ", text.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        head, source = part.split("\n", 1)
        kind, name, *tags = head.split()
        new = {"md": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}[kind]
        metadata: dict[str, object] = {"tags": tags} if tags else {}
        if kind == "md" and "{{" in source:
            metadata["template"] = source.strip("\n")
        notebook.cells.append(new(source.strip("\n"), id=name, metadata=metadata))
    if path.exists():
        notebook.metadata = nbformat.read(path, as_version=4).metadata
    stamp(notebook, path)
    write(notebook, path)


def main(command: str = "", *arguments: str) -> None:
    """Do what the command line says."""
    paths = [Path(argument).resolve() for argument in arguments]
    if command == "run":
        for path in paths or chapters():
            run(path)
    elif command == "stamp":
        for path in paths or chapters():
            notebook = nbformat.read(path, as_version=4)
            stamp(notebook, path)
            write(notebook, path)
    elif command in ("pack", "unpack") and len(paths) == 2:
        {"pack": pack, "unpack": unpack}[command](*paths)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
