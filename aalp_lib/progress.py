"""Progress bars with the time left, for whoever wants them; on no terminal they stay silent."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tell = Callable[[int, int, str], None]  # done, in all, and a word on what is going on


def bars(console: Console) -> Progress:
    """An empty display of bars, which needs a `text` field for each of its tasks."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("so far,"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("left"),
        TextColumn("{task.fields[text]}"),
        console=console,
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
