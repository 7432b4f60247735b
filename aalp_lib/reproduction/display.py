"""What the command `aalp` shows: lines, tables, and a bar for each job that is under way."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import rich.box
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from aalp_lib.attacks import Attack, levels
from aalp_lib.data import Dataset
from aalp_lib.diagnosis import Diagnosis
from aalp_lib.methods import Method
from aalp_lib.progress import bars
from aalp_lib.reproduction import archive, escaping, schema
from aalp_lib.reproduction.jobs import Job
from aalp_lib.reproduction.schema import HEADINGS, Record
from aalp_lib.reproduction.settings import Setting
from aalp_lib.reproduction.workers import run_jobs
from aalp_lib.train import WATCHED, History

if TYPE_CHECKING:
    import pandas

    from aalp_lib.reproduction import bench


class _Console(Console):
    """Shows what comes from a path or a record as it is, without control characters."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(escaping.terminal(text), **how)


console = _Console(markup=False, highlight=False, emoji=False)  # what comes from a path or a record is no markup
_PLAIN: dict[str, Any] = {"padding": (0, 1, 0, 0), "box": rich.box.SIMPLE_HEAD}


# --- lines -----------------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Print a line; a long path or command is not broken, so that it can be copied."""
    console.print(text, soft_wrap=True)


def marked(mark: str, text: str) -> None:
    """Print a line behind a coloured word."""
    console.print(Text.assemble((f"{mark}:", "yellow"), " ", escaping.terminal(text)))


def wrote(paths: Iterable[object]) -> None:
    """Print a line for each file."""
    for path in paths:
        say(f"wrote {path}")


def plural(count: int, word: str) -> str:
    """A count and what it counts."""
    return f"{count} {word}" + "s" * (count != 1)


def ball(attack: Attack, words: str = "eps {eps}, {steps} steps of {step}") -> str:
    """An attack's numbers put into words, radius and step in grey levels where they are whole ones: 8/255."""
    return words.format(eps=levels(attack.eps), step=levels(attack.step), steps=attack.steps)


def training(method: Method, dataset: Dataset, setting: Setting) -> None:
    """Say what is about to be trained, and how."""
    recipe = setting.recipe
    say(
        f"{method.label} on {dataset.name}, {setting.model['name']}: {plural(recipe.epochs, 'epoch')}, "
        f"batch {recipe.batch_size}, lr {recipe.lr:g} {recipe.schedule}, {recipe.precision}"
    )
    say(f"attack: {ball(setting.attack)}")


def history(made: History) -> None:
    """Say what a training came to on the validation split."""
    last = made.epochs[-1]
    shares = {"clean": last.clean, f"under {WATCHED}": last.robust}
    seen = ", ".join(f"{100 * share:.1f} % {words}" for words, share in shares.items() if share is not None)
    say(f"validation: {seen}; best epoch {made.best}")


def plan(jobs: Sequence[Job], todo: Sequence[Job], recipe: str, download: bool) -> None:
    """Say what a grid's runs train on and for how long, and which are to do; `download`: their data are not there."""
    first, epochs = jobs[0], sorted({job.setting.recipe.epochs for job in jobs})
    say(
        f"recipe {recipe}, {' or '.join(map(str, epochs))} epoch{'s' * (epochs != [1])}; {first.data}, "
        f"all training and {first.test_images or 'all'} test images"
    )
    if download:
        say(f"the data of {first.data} is not there yet; the first run downloads it")
    for job in todo:
        reduced = f" ({job.reduced})" if job.reduced else ""
        say(f"{'under way' if job.run.exists() else 'to do':>9}  {job.name}{reduced}")


def timed(row: "bench.Row") -> None:
    """Print a row of the bench."""
    console.print(f"{row.what}: {row.reached:.2f} ({row.goal})", style="" if row.met else "red")
    console.print(f"  {row.note}", style="dim")


# --- many jobs -------------------------------------------------------------------------------------------------------


def run_all(
    jobs: Sequence[Job], workers: int, executor: Executor | None = None, minutes: float | None = None
) -> list[Record]:
    """Run jobs with a bar for each that is under way and one over all, and a line for each that is done.

    Arguments, and what is raised, as for `workers.run_jobs`; the records come in the order of the paper's tables.
    """
    records: list[Record] = []
    with bars(console) as progress:
        each = _JobBars(progress, jobs)
        for record in run_jobs(jobs, workers, each.watch, executor, minutes):
            records.append(record)
            clean, pgd = (f"{100 * record.accuracy['last'][name]['accuracy']:.1f} %" for name in ("clean", "pgd40"))
            say(
                f"{len(records)}/{len(jobs)}  {each.over}: clean {clean}, PGD-40 {pgd}; "
                f"{record.seconds['training']:.0f} s training, {record.seconds['evaluation']:.0f} s attacks"
            )
    return archive.in_order(records)


class _JobBars:
    """A bar for each job under way, and one for all.

    `over` names the job that was over last: that of the record which `run_jobs` yields next.
    """

    def __init__(self, progress: Progress, jobs: Sequence[Job]) -> None:
        self.progress, self.called, self.over = progress, called(jobs), ""
        self.share: dict[str, float] = {}
        self.tasks: dict[str, TaskID] = {}
        self.overall = progress.add_task("all", total=len(jobs), text="")

    def watch(self, job: Job, done: int, total: int, text: str) -> None:
        name, self.share[job.name] = self.called[job.name], done / total
        if done == total:
            self.over = name
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total, text="")
        self.progress.update(self.tasks[name], completed=done, total=total, text=text, visible=done < total)
        self.progress.update(self.overall, completed=sum(self.share.values()))


def called(jobs: Sequence[Job]) -> dict[str, str]:
    """What to call each job, by its name: its method, and variant and seed where the grid has several."""
    variants, seeds = ({getattr(job, key) for job in jobs} for key in ("variant", "seed"))
    parts = {
        job.name: (job.row.label, job.variant * (len(variants) > 1), f"seed {job.seed}" * (len(seeds) > 1))
        for job in jobs
    }
    return {name: ", ".join(filter(None, of)) for name, of in parts.items()}


# --- tables ----------------------------------------------------------------------------------------------------------


def table_2(records: Sequence[Record]) -> None:
    """Show Table 2's columns of records that were attacked on the same images, a row each."""
    names = list(records[0].accuracy["last"])
    count = int(records[0].accuracy["last"][names[0]]["count"])
    heads = (HEADINGS[name].replace("-", "\n") for name in names)
    table = Table("", *heads, title=f"Correct test images in %, of {count}, with 95 % intervals", **_PLAIN)
    for record in records:
        table.add_row(schema.label(record.method), *(_with_interval(record.accuracy["last"][name]) for name in names))
    console.print(table)


def _with_interval(found: Mapping[str, float]) -> Text:
    low, high = (f"{100 * found[end]:.0f}" for end in ("low", "high"))
    return Text.assemble(f"{100 * found['accuracy']:.1f}\n", (f"{low}–{high}", "dim"))


def accuracies(found: Mapping[str, Mapping[str, float]]) -> None:
    """Show what is right under each attack of a record or measurement."""
    table = Table("attack", "correct", "95 % interval", "images")
    for name, row in found.items():
        table.add_row(HEADINGS.get(name, name), *_cells(row), str(row["count"]))
    console.print(table)


def _cells(row: Mapping[str, float]) -> tuple[str, str]:
    return f"{100 * row['accuracy']:.2f} %", f"{100 * row['low']:.2f} to {100 * row['high']:.2f}"


def diagnosis(found: Diagnosis) -> None:
    """Show the accuracies of a diagnosis, its remarks and its signs."""
    table = Table("attack", "correct", "95 % interval", "")
    for group in found.rows:
        for name, row, remark in group:
            table.add_row(name, *_cells(row), remark)
        table.add_section()
    console.print(table)
    for remark in found.remarks:
        console.print(remark)
    for sign in found.signs:
        marked("sign", sign)
    if not found.signs:
        console.print("No sign of gradient masking.")


def dataset(found: Dataset) -> None:
    """Show how many images of each class a data set has in each split."""
    channels, height, width = found.train.images.shape[1:]
    say(f"{found.name}: {len(found.classes)} classes, images {channels}×{height}×{width}")
    table = Table("class", "train", "val", "test")
    counts = [part.labels.bincount(minlength=len(found.classes)) for part in (found.train, found.val, found.test)]
    for index, name in enumerate(found.classes):
        table.add_row(name, *(str(int(count[index])) for count in counts))
    table.add_section()
    table.add_row("all", *(str(int(count.sum())) for count in counts))
    console.print(table)


def has_room(columns: int) -> bool:
    """Whether lines so long fit: on no terminal all do."""
    return columns <= console.width or not sys.stdout.isatty()


def results(
    form: str | None, whole: "pandas.DataFrame", parts: Mapping[str, "pandas.DataFrame"], notes: Sequence[str]
) -> None:
    """Print a frame as "csv", or its parts, by their titles, as "markdown" or by default as a terminal has room for."""
    from aalp_lib.reproduction import tables  # pandas is an extra

    if form == "csv":
        print(whole.map(escaping.csv).to_csv(index=False), end="")
        return
    columns = form is None and sys.stdout.isatty()
    for title, part in parts.items():
        if columns:
            _frame(part, title)
        else:
            print(f"**{escaping.markdown(title)}**\n\n{tables.markdown(part)}\n")
    for note in notes:
        console.print(note, soft_wrap=not columns)


def _frame(made: "pandas.DataFrame", title: str) -> None:
    """A table; devices and protocols are cut off where there is no room."""
    from aalp_lib.reproduction import tables

    table = Table(title=title, **_PLAIN)
    for name in map(str, made):
        head = re.sub("[ -]", "\n", name)
        words = " ".join([head, *made[name].dropna().astype(str)]).split()
        table.add_column(
            head,
            justify="left" if tables.is_text(made[name]) else "right",
            min_width=max(map(len, words), default=0),  # broken between words alone
            max_width={"device": 21, "protocol": 24}.get(name),
        )
    for line in made.itertuples(index=False):
        table.add_row(*("" if cell != cell else re.sub(r" (?=[\[(])", "\n", str(cell)) for cell in line))
    console.print(table)
