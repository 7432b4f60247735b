"""Spelling of the prose: notebooks, pages, README and its neighbours, docstrings. British, by Hunspell's dictionary.

    python scripts/spelling.py [FILE ...]    say which words are unknown, and where; by default in all files

Words that the dictionary lacks and that are right stand in `book/words.txt`. Code, formulas, links and names with
capitals or digits inside (`PyTorch`, `PGD-10`) are passed over.
"""

import ast
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from hunspell import Hunspell

ROOT = Path(__file__).resolve().parents[1]
WORDS = ROOT / "book" / "words.txt"

# The dictionary is American: a word that it lacks is right if one of these makes it a word that it has.
BRITISH = (
    (r"is(e|ed|er|ers|es|ing|ation|ations)$", r"iz\1"),
    (r"ys(e|ed|er|ers|es|ing)$", r"yz\1"),
    (r"our", "or"),
    (r"ll(ed|er|ers|ing)$", r"l\1"),
    (r"tre(s|d)?$", r"ter\1"),
    (r"ence(s?)$", r"ense\1"),
    (r"ogue(s?)$", r"og\1"),
    (r"grey", "gray"),
)
# ... and these, which it has, are not how this book spells.
AMERICAN = re.compile(
    r"\w{4,}iz(e|ed|er|ers|es|ing|ation|ations)|\w+lyz(e|ed|er|ers|es|ing)"
    r"|(behavi|col|fav|flav|harb|hon|hum|lab|neighb|rum|vap)or(s|ed|ing|al|able|ful|hood|ite|less)?"
    r"|(cancel|channel|label|level|model|signal|travel)(ed|er|ers|ing)"
    r"|(cent|fib|theat)er(s|ed|ing)?|(def|off|pret)enses?|(anal|catal|dial)ogs?|grays?"
)


def sources() -> list[Path]:
    """The files whose prose is checked."""
    return [
        *sorted((ROOT / "book").glob("*.ipynb")),
        *sorted((ROOT / "book").glob("*.md")),
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "aalp_lib" / "assets").glob("*.md")),
        *sorted((ROOT / "aalp_lib").glob("*.py")),
        *sorted((ROOT / "scripts").glob("*.py")),
    ]


def prose(path: Path) -> str:
    """The words that a reader of the file meets, without code, formulas and links."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return "\n".join(from_cells(text))
    return "\n".join(from_docstrings(text)) if path.suffix == ".py" else from_markdown(text)


def from_cells(text: str) -> Iterator[str]:
    """Markdown cells, and of code cells the comments and the strings that are more than a word."""
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield from_markdown(source)
        elif cell["cell_type"] == "code":
            source = re.sub(r"^( *)%.*$", r"\1pass", source, flags=re.MULTILINE)  # such as %pip
            yield from comments(source)
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
                    yield from_markdown(node.value)


def comments(source: str) -> Iterator[str]:
    """What stands behind a `#`."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from_markdown(token.string.lstrip("# "))


def from_docstrings(text: str) -> Iterator[str]:
    """The docstrings of a module and of its public functions and classes, without examples and types."""
    for node in ast.walk(ast.parse(text)):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        if isinstance(node, kinds) and not getattr(node, "name", "").startswith("_"):
            words = ast.get_docstring(node) or ""
            words = re.sub(r"^ *>>> .*?(?:\n\s*\n|\Z)", "", words, flags=re.MULTILINE | re.DOTALL)
            words = re.sub(r"^[\w*, .]+ : .*$", "", words, flags=re.MULTILINE)
            yield from_markdown(re.sub(r"^    [a-z].*$", "", words, flags=re.MULTILINE) if _lists(words) else words)


def _lists(words: str) -> bool:
    """Whether a docstring shows commands, which are indented, and no parameters, which are too."""
    return not re.search(r"^-{4,}$", words, re.MULTILINE)


def from_markdown(text: str) -> str:
    """Markdown without fenced blocks, code, formulas, roles, labels, addresses, targets of links and tags."""
    for pattern, instead in (
        (r"^(```|~~~|:::).*?^\1", " "),
        (r"<!--.*?-->", " "),
        (r"\$\$.*?\$\$( *\([\w-]+\))?|\$[^$\n]*\$", " "),
        (r"\{[\w:]+\}`[^`]*`|``.+?``|`[^`]*`", " "),
        (r"\]\([^)\s]*\)", "] "),
        (r"https?://\S+", " "),
        (r"</?[a-z][^<>]*>", " "),
    ):
        text = re.sub(pattern, instead, text, flags=re.MULTILINE | re.DOTALL)
    return text


def words(text: str) -> Iterator[str]:
    """The words of a text that are to be checked: no names with digits, dots, underscores or inner capitals."""
    for token in re.findall(r"[\w.'’-]+", text):
        token = token.strip(".'’-").replace("’", "'")
        if re.search(r"[\d_.]", token):
            continue
        for part in token.split("-"):
            word = re.sub(r"'s?$", "", part)
            if len(word) > 2 and word.isascii() and (word.islower() or word.istitle()):
                yield word


@cache
def dictionary() -> Hunspell:
    """Hunspell with the American dictionary that its package brings."""
    return Hunspell("en_US")


@cache
def listed() -> frozenset[str]:
    """The project's own words."""
    lines = WORDS.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def right(word: str) -> bool:
    """Whether a word is spelt as this book spells."""
    own = {word, word.lower(), word.removesuffix("s"), word.lower().removesuffix("s")}
    if own & listed():
        return True
    if AMERICAN.fullmatch(word.lower()):
        return False
    american = {re.sub(pattern, instead, word.lower()) for pattern, instead in BRITISH}
    return any(dictionary().spell(form) for form in (word, word.lower(), *american))


def unknown(path: Path) -> list[str]:
    """The words of a file that are not right, sorted."""
    return sorted({word for word in words(prose(path)) if not right(word)})


def main(*arguments: str) -> None:
    """Print what is unknown, a line for each file; end with 1 if there is something."""
    found = {path: unknown(path) for path in map(Path, arguments)} if arguments else {p: unknown(p) for p in sources()}
    for path, strange in found.items():
        if strange:
            print(f"{path.name}: {' '.join(strange)}")
    if any(found.values()):
        sys.exit(f"mend these, or add what is right to {WORDS.relative_to(ROOT)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
