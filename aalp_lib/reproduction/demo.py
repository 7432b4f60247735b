"""The demo: Table 2's comparison on the bundled digits, as jobs, and what is made of their records."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from aalp_lib import checkpoints, plots
from aalp_lib.attacks import PGD
from aalp_lib.data import load
from aalp_lib.reproduction import archive, escaping, plots_of_records
from aalp_lib.reproduction.grids import QUICK, Grid
from aalp_lib.reproduction.jobs import Job
from aalp_lib.reproduction.schema import HEADINGS, Record, label

DATA = "mnist-sample"
MACHINE = ("processor", "threads", "python", "torch", "aalp_lib")


def jobs(out: Path, seed: int = 0, quick: bool = False) -> list[Job]:
    """One job for each method of Table 2; `quick` ones train for one epoch and attack 100 images."""
    return Grid(DATA, out, seeds=(seed,), best_columns=("pgd40",)).jobs(**(QUICK if quick else {}))


def write(records: Sequence[Record], jobs: Sequence[Job], out: Path) -> list[Path]:
    """Write the table as Markdown and the figures as PNG; returns their paths."""
    records = archive.in_order(records)
    checkpoints.write_atomically(out / "table.md", markdown(records).encode())
    figures = {
        "robust-accuracy.png": plots_of_records.robust_accuracy(records),
        "training-curves.png": plots_of_records.training_curves(records),
        "digits.png": digits({job.row.name: job for job in jobs}),
    }
    for name, figure in figures.items():
        plots.save(figure, out / name)
        plt.close(figure)
    return [out / name for name in ("table.md", *figures)]


def markdown(records: Sequence[Record]) -> str:
    """The table with what a reader needs to know about its numbers around it."""
    first = records[0]
    count = int(first.accuracy["last"]["clean"]["count"])
    data = escaping.plain(first.data).replace("`", "")
    machine = {key: escaping.markdown(first.environment.get(key)) for key in MACHINE}
    kept = {r.method: r.history["epochs"][-1]["kept"] for r in records if r.config["method"]["guided_dropout"]}
    work = sum(sum(r.seconds.values()) for r in records)
    dropout = ", ".join(f"{_name(name)} {100 * value:.0f} %" for name, value in kept.items())
    return (
        f"Correct test images in percent, with the 95 % Wilson interval; {count} digits of `{data}`, last epoch, "
        f"seed {first.seed}. An image counts as fooled at k steps once any iterate up to k fools it.\n\n"
        f"{table(records)}\n"
        "The model that was best on the validation split:\n\n"
        f"{table(records, 'best')}\n"
        f"Features that Guided Dropout kept, mean over the last epoch: {dropout}.\n\n"
        f"{machine['processor']}, {machine['threads']} thread a run, Python {machine['python']}, "
        f"torch {machine['torch']}, aalp_lib {machine['aalp_lib']}; {work:.0f} s of work in all.\n"
    )


def table(records: Sequence[Record], model: str = "last") -> str:
    """Table 2 in Markdown: a row a record, percent right with the 95 % interval."""
    names = list(records[0].accuracy[model])
    rows = [
        ["Method", "Seed", *(escaping.markdown(HEADINGS.get(name, name)) for name in names)],
        ["---"] * (2 + len(names)),
    ]
    rows += [[_name(r.method), str(r.seed), *(_cell(r.accuracy[model][name]) for name in names)] for r in records]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _name(method: str) -> str:
    return escaping.markdown(label(method))


def _cell(found: Mapping[str, float]) -> str:
    value, low, high = (f"{100 * found[key]:.1f}" for key in ("accuracy", "low", "high"))
    return f"{value} ({low}–{high})"


def digits(jobs: dict[str, Job]) -> Figure:
    """The first test digit of each class, clean and after PGD-100, as RAW and as AALP see them."""
    test = load(DATA).test
    test = test[torch.stack([(test.labels == digit).nonzero()[0, 0] for digit in range(10)])]
    (x, y), attack = next(test.batches(len(test))), PGD(0.3, 0.01, 100)
    rows, wrong = [], {}
    for method in ("raw", "aalp"):
        model, name = checkpoints.load_model(jobs[method].run), label(method)
        x_adv = attack(model, x, y, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            before, after = model(x), model(x_adv)
        wrong[name] = int((after.argmax(1) != y).sum())
        rows += [(f"{name}\nclean", x, before), (f"{name}\nattacked", x_adv, after)]
    figure = plots.predictions(rows, y, [*map(str, range(10))])
    counts = " and ".join(f"{name} is wrong on {count}" for name, count in wrong.items())
    figure.suptitle(f"After PGD-100, {counts} of these ten (the first test digit of each class)", fontsize=11)
    return figure
