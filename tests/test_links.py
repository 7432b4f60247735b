"""Links out of the repository: all in one list, and the command that asks them. Nothing here uses the network."""

import http.server
import re
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("nbformat", reason="the book's packages are not installed (extra 'book')")
pytest.importorskip("nbclient", reason="the book's packages are not installed (extra 'book')")
pytest.importorskip("yaml", reason="the book's packages are not installed (extra 'book')")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import links  # noqa: E402

HTML = ROOT / "_build" / "html"


def test_the_list_is_what_the_texts_lead_to():
    places = {path.relative_to(ROOT).as_posix(): links.found(path) for path in links.sources()}
    listed = set(links.listed())
    assert {path: found - listed for path, found in places.items() if found - listed} == {}
    assert listed - set().union(*places.values()) == set()
    assert len(listed) == len(links.listed())


def test_built_pages_lead_nowhere_else():
    """What the theme and the bibliography add is listed as well."""
    if not (HTML / "index.html").exists():
        pytest.skip("the book was not built (make html)")
    strange = {}
    for page in [HTML / "index.html", *(HTML / "book").glob("*.html")]:
        addresses = re.findall(r'<a [^>]*href="(https?://[^"]+)"', page.read_text(encoding="utf-8"))
        strange[page.name] = {a for a in addresses if not links.is_own(a)} - set(links.listed())
    assert {name: found for name, found in strange.items() if found} == {}


def test_a_link_is_found_wherever_it_stands(tmp_path):
    page = tmp_path / "page.md"
    own = links.repository()[0]
    page.write_text(f"[a](https://example.org/a), <https://example.org/b>; https://example.org/c. [own]({own}/issues)")
    assert links.found(page) == {f"https://example.org/{letter}" for letter in "abc"}
    notebook = tmp_path / "page.ipynb"
    notebook.write_text('{"cells": [{"cell_type": "code", "source": ["x = \\"https://example.org/d\\""]}]}')
    assert links.found(notebook) == {"https://example.org/d"}
    bib = tmp_path / "page.bib"
    bib.write_text("eprint = {1234.5678},\n doi = {10.1/x}")
    assert links.found(bib) == {"https://arxiv.org/abs/1234.5678", "https://doi.org/10.1/x"}


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/here" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_the_command_says_which_link_leads_nowhere(tmp_path, monkeypatch, capsys):
    server = http.server.HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(links, "LINKS", tmp_path / "links.txt")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    links.LINKS.write_text(f"# a remark\n{place}/here\n")
    links.main()
    links.LINKS.write_text(f"{place}/here\n{place}/gone\n")
    with pytest.raises(SystemExit, match="lead nowhere"):
        links.main()
    server.shutdown()
    ok, *_, gone = capsys.readouterr().out.splitlines()
    assert ok.startswith("ok ")
    assert "404" in gone
