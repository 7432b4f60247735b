"""What a log, a terminal and a notebook show of long work."""

import io
import re

import pytest
from rich.console import Console

from aalp_lib import progress


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=120)


def test_a_log_has_a_line_now_and_then(console, monkeypatch):
    with progress.shown(True, "training", console) as tell:
        tell(1, 8, "epoch 1/2")
        tell(2, 8, "epoch 1/2")
        assert console.file.getvalue() == ""  # the time has not come
        monkeypatch.setattr(progress, "EVERY", 0.0)
        tell(4, 8, "epoch 1/2 [val 96%]")
    line = r"training: 50 %, 0:00:0\d so far, 0:00:0\d left  epoch 1/2 \[val 96%\]\n"
    assert re.fullmatch(line, console.file.getvalue())


def test_of_several_works_each_that_is_under_way_has_a_line(console, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress.bars(console) as display:
        over_all, one, other = (display.add_task(name, total=None, text="") for name in ("all", "ALP 0", "ALP 1"))
        display.update(one, completed=5, total=5, visible=False)
        display.update(other, completed=1, total=4)
        console.file.truncate(0)
        console.file.seek(0)
        display.update(over_all, completed=6, total=10)
    lines = console.file.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["all: 60 %", "ALP 1: 25 %"]
    assert "left" in lines[0]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("file", "environment", "wanted", "bar"),
    [
        (Terminal, {}, None, True),
        (Terminal, {}, False, False),
        (Terminal, {"CI": "true"}, None, False),
        (Terminal, {"CI": "true"}, True, True),
        (Terminal, {"TERM": "dumb"}, None, False),
        (io.StringIO, {"FORCE_COLOR": "1"}, None, False),  # a pipe of somebody who likes colours
        (io.StringIO, {}, None, False),
    ],
)
def test_whoever_sits_at_a_terminal_sees_a_bar_unasked(monkeypatch, file, environment, wanted, bar):
    for name in ("CI", "FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    console = Console(file=file(), width=120)
    with progress.shown(wanted, "training", console) as tell:
        assert (tell is not None) == bar
        with progress.shown(None, "attacking", console) as inner:
            assert inner is None  # the larger work tells
        if tell:
            tell(1, 4, "epoch 1/2")
    assert ("training" in console.file.getvalue()) == bar


def test_short_work_shows_nothing_unasked(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    console = Console(file=Terminal(), width=120)
    with progress.shown(None, "attacking", console) as tell:
        tell(1, 4, "")
    assert console.file.getvalue() == ""


NOTEBOOK = """
import time, aalp_lib as aalp
from aalp_lib import progress
with progress.shown({wanted}, "attacking") as tell:
    for step in range(6):
        time.sleep(0.3)
        if tell: tell(step + 1, 6, "one")
"""


@pytest.mark.slow
def test_a_notebook_has_a_line_that_changes_unless_a_program_executes_it():
    """nbclient answers no questions; a notebook in front of somebody does."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    heard = {}
    for somebody, wanted in ((True, None), (False, None), (False, True)):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK.format(wanted=wanted))])
        client = nbclient.NotebookClient(notebook, kernel_name="python3")
        told = heard[somebody, wanted] = []
        client.process_message = lambda message, *rest, told=told, real=client.process_message: (
            told.append(message["content"].get("data", {}).get("text/plain")), real(message, *rest)
        )[1]  # fmt: skip
        with client.setup_kernel():
            client.kc.allow_stdin = somebody
            client.execute_cell(notebook.cells[0], 0)
    for key in ((True, None), (False, True)):
        lines = [line for line in heard[key] if line is not None]
        assert re.fullmatch(r"attacking: \d+ %, 0:00:0\d so far, .* left  one", lines[0])
        assert lines[-1] == ""
        assert len(lines) > 2
    assert set(heard[False, None]) == {None}
