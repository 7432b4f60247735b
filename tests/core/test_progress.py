"""What a log shows of long work, where there is no terminal to draw bars on."""

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
