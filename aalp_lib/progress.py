"""Progress with the time left, for whoever wants it: bars, or where there is no terminal a line now and then."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
Tell = Callable[[int, int, str], None]  # done, in all, and a word on what is going on
EVERY = 300.0  # seconds between lines


class _Display(Progress):
    """Bars; on no terminal, such as the log of a batch job, a line on each of them every five minutes instead."""

    _written: float | None = None

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        now = time.monotonic()
        if self._written is None:
            self._written = now
        if self.disable and now - self._written >= EVERY:
            self._written = now
            for task in self.tasks:
                if task.visible and task.total:
                    so_far, left = (_clock(seconds) for seconds in (task.elapsed, task.time_remaining))
                    line = f"{task.description}: {task.percentage:.0f} %, {so_far} so far, {left} left"
                    self.console.print(f"{line}  {task.fields['text']}".rstrip(), highlight=False, markup=False)


def _clock(seconds: float | None) -> str:
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))


def bars(console: Console) -> Progress:
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
    )


@contextmanager
def shown(wanted: bool | Tell | None, title: str, console: Console | None = None) -> Iterator[Tell | None]:
    """What to call with progress: the caller's own function, or with True that of a bar, or nothing."""
    if wanted is not True:
        yield wanted or None
        return
    with bars(console or Console()) as display:
        task = display.add_task(title, total=None, text="")
        yield lambda done, total, text: display.update(task, completed=done, total=total, text=text)


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
