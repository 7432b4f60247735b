"""What a package index is told when a wheel is built: the README with whole addresses for its links and pictures.

Hatchling calls this (`pyproject.toml`); the addresses are made of the repository's in `[project.urls]`.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

BRANCH = "main"


class Readme(MetadataHookInterface):  # type: ignore[misc]
    """Puts the README into the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add what "dynamic" promises."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = absolute(text, metadata["urls"]["Repository"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute(text: str, repository: str) -> str:
    """Markdown whose links to files of the repository are whole addresses; of a picture that of the file itself."""

    def whole(found: re.Match[str]) -> str:
        kind = "raw" if found["picture"] else "blob"
        return f"{found['picture']}[{found['words']}]({repository}/{kind}/{BRANCH}/{found['path']})"

    return re.sub(r"(?P<picture>!?)\[(?P<words>[^]]*)\]\((?!https?:|#)(?P<path>[^)]+)\)", whole, text)
