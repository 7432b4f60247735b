"""What `print` and a notebook show of reports, histories and diagnoses: a table each."""

import html
from collections.abc import Sequence

Table = tuple[Sequence[str], Sequence[Sequence[str]], Sequence[str]]  # heads, rows of cells, notes below


class Tabled:
    """Shown as the table that `_table` returns."""

    def _table(self) -> Table:
        raise NotImplementedError

    def __repr__(self) -> str:
        heads, rows, notes = self._table()
        lines = [[_printable(cell) for cell in line] for line in (heads, *rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = ("  ".join(map(str.rjust, line, widths)).rstrip() for line in lines)
        return "\n".join([*aligned, *map(_printable, notes)])

    def _repr_html_(self) -> str:
        heads, rows, notes = self._table()
        lines = [_line("th", heads), *(_line("td", row) for row in rows)]
        return f"<table>{''.join(lines)}</table>" + "".join(f"<p>{html.escape(note)}</p>" for note in notes)


def _line(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(_printable(cell))}</{tag}>" for cell in cells) + "</tr>"


def _printable(cell: str) -> str:
    """One line without control characters, whatever somebody called his attack."""
    return "".join(character if character.isprintable() else "�" for character in cell)


def percent(share: float | None, digits: int = 2) -> str:
    """A share in percent; nothing for None."""
    return "" if share is None else f"{100 * share:.{digits}f} %"
