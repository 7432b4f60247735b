"""Links that lead out of the book and the repository: which there are, and, on request, whether they still work.

    python scripts/links.py          ask each address in `book/links.txt` over the network: `make links`

The repository's own address is not among them: `_config.yml` holds it, and everything else is made from there.
"""

import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

from notebooks import ROOT, repository  # which makes the next one known
from portable import site

LINKS = ROOT / "book" / "links.txt"
ADDRESS = re.compile(r"https?://[^\s<>()\[\]{}\"'`|\\^]+")
BROWSER = {"User-Agent": "Mozilla/5.0 (a check of links, a few requests, on request)"}


def listed() -> list[str]:
    """The addresses in `book/links.txt`, a line each; what follows a blank is a remark."""
    lines = LINKS.read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line and not line.startswith("#")]


def sources() -> list[Path]:
    """The files that may hold links for a reader."""
    patterns = ("*.md", "*.cff", "_config.yml", "pyproject.toml", "book/*.md", "book/*.bib", "book/*.ipynb",
                "book/_static/*.*", "aalp_lib/*.py", "aalp_lib/assets/*.md")  # fmt: skip
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file())


def is_own(address: str) -> bool:
    """Whether an address is the repository's own: there, its raw files, in Colab, its published pages."""
    place = repository()[0].removeprefix("https://github.com/")
    hosts = ("https://github.com", "https://raw.githubusercontent.com", "https://colab.research.google.com/github")
    return address.startswith((*(f"{host}/{place}" for host in hosts), site(repository()[0])))


def found(path: Path) -> set[str]:
    """The addresses in a file, without the repository's own; of a bibliography also those of its preprints."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)  # a name, not a link
    addresses = {address.rstrip(".,;:*") for address in ADDRESS.findall(text)}
    addresses |= {f"https://arxiv.org/abs/{number}" for number in re.findall(r"eprint = \{(.+?)\}", text)}
    addresses |= {f"https://doi.org/{number}" for number in re.findall(r"doi = \{(.+?)\}", text)}
    return {address for address in addresses if not is_own(address) and re.match(r"https?://\w+[.:]", address)}


def answer(address: str) -> str:
    """What is said at an address: "ok", or why not."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=BROWSER), timeout=20) as reply:
            return "ok" if reply.status < 400 else str(reply.status)
    except (urllib.error.URLError, OSError, ValueError) as error:
        return str(error)


def main() -> None:
    """Ask each listed address, print what it says, and end with 1 if one does not answer."""
    answers = {address: answer(address) for address in listed()}
    for address, said in answers.items():
        print(f"{said:12} {address}")
    if set(answers.values()) - {"ok"}:
        sys.exit("some links lead nowhere, or there is no network")


if __name__ == "__main__":
    main()
