"""Text from outside, such as a record's labels and processor, put so that no file and no terminal takes it for code."""

import unicodedata

_CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")  # move a cursor, reverse or hide what follows, or cannot be encoded


def terminal(value: object) -> str:
    """Text as it stands, lines and tabs included, with a mark in the place of every control character."""
    return "".join("�" if unicodedata.category(c) in _CONTROLS and c not in "\n\t" else c for c in str(value))


def plain(value: object) -> str:
    """The same in one line."""
    return terminal(" ".join(str(value).split()))


def markdown(value: object) -> str:
    """Text as Markdown and the HTML made of it show it, in one line: no cell, tag, link or picture begins in it.

    Examples
    --------
    >>> markdown("a | <b>")
    'a \\\\| &lt;b>'
    """
    return plain(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")


def figure(value: object) -> str:
    """Text as matplotlib shows it, in one line, without formulas."""
    return plain(value).replace("$", r"\$")


def csv(value: object) -> object:
    """A cell that no spreadsheet takes for a formula; what is no text stays as it is.

    Examples
    --------
    >>> csv("=1+1"), csv(-1.5)
    ("'=1+1", -1.5)
    """
    if not isinstance(value, str):
        return value
    return "'" * value.lstrip().startswith(("=", "+", "-", "@")) + plain(value)
