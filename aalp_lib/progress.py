"""Progress with the time left: bars, a line that changes in a notebook, or in a log a line now and then."""

import importlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from aalp_lib._checks import InputError

T = TypeVar("T")
Tell = Callable[[int, int, str], None]  # done, in all, and a word on what is going on
EVERY = 300.0  # seconds between lines of a log
NOTED = 0.5  # seconds between changes of a line in a notebook
PATIENCE = 1.0  # seconds that pass before what nobody asked for is shown

_inside: ContextVar[bool] = ContextVar("whether the progress of a larger work is told", default=False)


class _Display(Progress):
    """Bars; in a notebook a line that changes, elsewhere off a terminal, such as the log of a batch job, a line on each
    of them every five minutes."""

    _written: float | None = None
    _note: Any = None

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        now, every = time.monotonic(), NOTED if self.console.is_jupyter else EVERY
        if self._written is None:
            self._written = now
        if self.disable and now - self._written >= every:
            self._written = now
            self.say("\n".join(_line(task) for task in self.tasks if task.visible and task.total))

    def say(self, text: str) -> None:
        if not self.console.is_jupyter:
            self.console.print(text, highlight=False, markup=False)
        elif self._note is None:
            display = importlib.import_module("IPython.display").display
            self._note = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._note.update({"text/plain": text}, raw=True)

    def stop(self) -> None:
        super().stop()
        if self._note is not None:
            self.say("")


def _line(task: Task) -> str:
    so_far, left = (_clock(seconds) for seconds in (task.elapsed, task.time_remaining))
    return f"{task.description}: {task.percentage:.0f} %, {so_far} so far, {left} left  {task.fields['text']}".rstrip()


def _clock(seconds: float | None) -> str:
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))


def bars(console: Console, **more: Any) -> Progress:
    """An empty display, which needs a `text` field for each of its tasks."""
    return _Display(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("so far,"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("left"),
        TextColumn("{task.fields[text]}"),
        console=console,
        speed_estimate_period=EVERY,
        disable=not console.is_terminal,
        **more,
    )


@contextmanager
def shown(wanted: bool | Tell | None, title: str, console: Console | None = None) -> Iterator[Tell | None]:
    """What to call with progress: the caller's own function, or that of a bar with True, or with None where somebody
    watches, once the work has taken a second and if no larger work tells of its own; else nothing."""
    if wanted is not None and not isinstance(wanted, bool) and not callable(wanted):
        raise InputError(f"progress must be True, False or a function, got {wanted!r}")
    console = console or Console()
    unasked = wanted is None and not _inside.get() and watched(console)
    token = _inside.set(True)
    try:
        if wanted is not True and not unasked:
            yield wanted or None
            return
        display, began = bars(console, transient=unasked), time.monotonic()
        task = display.add_task(title, total=None, text="")

        def tell(done: int, total: int, text: str) -> None:
            if not unasked or time.monotonic() - began > PATIENCE:
                display.start()
            display.update(task, completed=done, total=total, text=text)

        if not unasked:
            display.start()
        try:
            yield tell
        finally:
            display.stop()
    finally:
        _inside.reset(token)


def watched(console: Console) -> bool:
    """Whether somebody is in front of the console: at a terminal, or at a notebook that takes input.

    A bar takes sys.stdout over while it stands, so in another than the main thread nobody is.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if console.is_jupyter:  # a notebook that is executed by a program may not ask for input
        kernel = getattr(importlib.import_module("IPython").get_ipython(), "kernel", None)
        return bool(getattr(kernel, "_allow_stdin", False))
    on_terminal = getattr(console.file, "isatty", lambda: False)()  # rich's own answer follows FORCE_COLOR into pipes
    return bool(on_terminal) and not console.is_dumb_terminal and "CI" not in os.environ


def stages(progress: Tell | None, **costs: float) -> dict[str, Tell | None]:
    """A progress function for each stage of a work, which moves one common count, in the unit of the costs."""
    if progress is None:
        return dict.fromkeys(costs)
    total = round(sum(costs.values()))

    def stage(before: float, cost: float) -> Tell:
        return lambda done, of, text: progress(round(before + cost * done / of), total, text)

    before = itertools.accumulate(costs.values(), initial=0.0)
    return {name: stage(start, cost) for start, (name, cost) in zip(before, costs.items(), strict=False)}


def told(items: Iterable[T], total: int, tell: Tell | None, text: str) -> Iterator[T]:
    """The items, of which there are `total`; each is told of, with `text`, once what was done with it is done."""
    for index, item in enumerate(items, 1):
        yield item
        if tell:
            tell(index, total, text)
