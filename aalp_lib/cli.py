"""The command `aalp`: demo, train, evaluate, diagnose, reproduce, measure, results, data, bench, info."""

import argparse
import contextlib
import dataclasses
import itertools
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import rich.box
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

import aalp_lib
from aalp_lib import _checks, checkpoints, data, methods, models, plots
from aalp_lib._checks import InputError
from aalp_lib.attacks import Attack
from aalp_lib.autoattack import QUERIES, installed
from aalp_lib.diagnosis import Diagnosis
from aalp_lib.engine import distributed
from aalp_lib.engine.precision import without_tf32
from aalp_lib.evaluation import HEADINGS, chosen_precision, evaluate, suite_for
from aalp_lib.methods import METHODS
from aalp_lib.progress import bars, shown
from aalp_lib.reproduction import (
    bench,
    collect,
    demo,
    figures,
    grids,
    machine,
    measurements,
    plots_of_records,
    report,
    schema,
)
from aalp_lib.reproduction.attack_measurements import diagnosis_of, measure_attacks
from aalp_lib.reproduction.jobs import Job, Origin, finished
from aalp_lib.reproduction.settings import Setting, new_model, setting_for, tier
from aalp_lib.reproduction.workers import cores, run_jobs
from aalp_lib.train import RUN, Interrupted, fit

console = Console()
_PLAIN: dict[str, Any] = {"padding": (0, 1, 0, 0), "box": rich.box.SIMPLE_HEAD}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for bad input or a failed run, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(arguments)
    options.again = shlex.join([*_command(), *(a for a in arguments if a != "--resume")])
    rank = int(os.environ["RANK"]) if distributed.launched() > 1 else 0
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: console.print(f"[yellow]note:[/] {escape(str(message))}")
        try:
            if distributed.launched() > 1 and options.run is not _train:
                raise InputError(
                    "under torchrun on several processes there is only 'train'; start the others as 'aalp'"
                )
            options.run(options)
        except (InputError, OSError, FloatingPointError, torch.OutOfMemoryError) as error:
            print(f"aalp{f', rank {rank}' if rank else ''}: {error}", file=sys.stderr)
            for note in getattr(error, "__notes__", ()):  # of a grid: which run it was, and which failed too
                print(f"  {note}", file=sys.stderr)
            return 1
        except KeyboardInterrupt as error:
            if not rank:  # all of torchrun's processes stop together
                print(f"\naalp: {str(error) or 'stopped'}", file=sys.stderr)
            return 130
    return 0


# --- sub-commands ----------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> None:
    _checks.count("--seed", options.seed, least=0)
    jobs = demo.jobs(options.out, options.seed, options.quick)
    done = sum(finished(job) is not None for job in jobs)
    console.print(
        f"Training and attacking {len(jobs)} methods on the bundled digits, {options.jobs} at a time on "
        f"{cores()} cores" + (f"; {done} are done already." if done else ".")
    )
    try:
        records = _run_jobs(jobs, options.jobs)
    except Interrupted as error:
        raise Interrupted(f"{error} in {options.out}; go on with:\n  {options.again}") from None
    console.print(_table(records))
    for path in demo.write(records, jobs, options.out):
        console.print(f"wrote {path}", highlight=False)


def _train(options: argparse.Namespace) -> None:
    device = distributed.device(options.device)
    with distributed.joined(device):
        console.quiet = distributed.rank() != 0
        _train_on(device, options)


def _train_on(device: torch.device, options: argparse.Namespace) -> None:
    _set_threads(options.threads)
    if not options.resume and (options.out / RUN).exists():
        raise InputError(f"{options.out} already holds a run. To go on with it:\n  {options.again} --resume")
    origin = Origin(options.data, options.root, options.image_size)
    dataset = distributed.in_turn(
        lambda: data.load(options.data, root=options.root, device=device, image_size=options.image_size)
    )
    setting = _adjusted(setting_for(dataset, options.recipe, options.model), options)
    method = methods.method(options.method)
    model = new_model(setting, options.seed).to(device)
    distributed.once(lambda: origin.save(options.out))
    recipe, attack = setting.recipe, setting.attack
    console.print(
        f"{method.label} on {dataset.name}, {setting.model['name']}: "
        f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)}, "
        f"batch {recipe.batch_size}, lr {recipe.lr:g} {recipe.schedule}, {recipe.precision}; "
        f"attack: eps {_levels(attack.eps)}, {attack.steps} steps of {_levels(attack.step)}",
        highlight=False,
    )
    try:
        with shown(True, "training", console) as tell:
            history = fit(
                model, dataset, method, attack, seed=options.seed, recipe=recipe,
                out=options.out, resume=options.resume, progress=tell,
            )  # fmt: skip
    except Interrupted as error:
        raise Interrupted(f"{error}:\n  {options.again} --resume") from None
    last = history.epochs[-1]
    robust = f", {100 * last.robust:.1f} % under PGD-10" if last.robust is not None else ""
    console.print(f"validation: {100 * (last.clean or 0):.1f} % clean{robust}; best epoch {history.best}")
    console.print(f"next: aalp evaluate {options.out}", highlight=False)


@without_tf32()
def _evaluate(options: argparse.Namespace) -> None:
    device = _checks.device(options.device)
    _set_threads(options.threads)
    model = checkpoints.load_model(options.run_folder, options.which).to(device)
    run = checkpoints.read_json(options.run_folder / RUN)
    origin = _origin(options)
    dataset = data.load(origin.data, root=origin.root, device=device, image_size=origin.image_size)
    if options.images is not None:
        _checks.count("--images", options.images)
    test = dataset.test[: options.images]
    suite = suite_for(dataset.name, Attack(**run["watched"]) if run["watched"] else None)
    began, environment = time.perf_counter(), machine.environment(device)
    options.precision = chosen_precision(
        model, test, options.precision, options.batch_size
    )  # the record says which it was
    with shown(True, "attacking", console) as tell:
        report = evaluate(
            model, test, suite, seed=options.seed, reading=options.reading, precision=options.precision,
            batch_size=options.batch_size, progress=tell,
        )  # fmt: skip
    pgd = suite["pgd40"]
    console.print(
        f"{run['method']['label']} on {dataset.name}, {options.which} epoch, "
        f"eps {_levels(pgd.eps)}, step {_levels(pgd.step)}",
        highlight=False,
    )
    console.print(_accuracies(schema.accuracies(report)))
    record = schema.Record(
        data=dataset.name,
        method=run["method"]["name"],
        seed=run["seed"],
        tier=tier(dataset.name),
        config={
            **run,
            "reading": options.reading,
            "evaluation_precision": options.precision,
            "evaluation_seed": options.seed,
            "test_images": options.images,
        },
        environment=environment,
        accuracy={options.which: schema.accuracies(report)},
        outcomes={options.which: schema.outcomes(report)},
        history={},
        seconds={"evaluation": time.perf_counter() - began},
    )
    images = f"-first{options.images}" if options.images else ""
    precision = f"-{options.precision}" if options.precision != "float32" else ""
    name = f"{dataset.name}-{options.which}-{options.reading}-seed{options.seed}{precision}{images}.json"
    console.print(f"wrote {record.save(options.run_folder / 'evaluations' / name)}", highlight=False)


def _reproduce(options: argparse.Namespace) -> None:
    jobs = _grid(options)
    todo = [job for job in jobs if finished(job) is None]
    there = bool(options.scheduler) or not todo or data.present(jobs[0].data, jobs[0].root)  # its workers see their own
    runs = f"{len(jobs)} run" + "s" * (len(jobs) != 1)
    console.print(f"{runs} into {jobs[0].out}, {len(jobs) - len(todo)} of them done already", highlight=False)
    copy = f"{options.grid}-jpeg"
    if todo and jobs[0].data == options.grid and (made := [*jobs[0].out.glob(f"{copy}-*.json")]):
        console.print(f"{len(made)} of {copy} lie there too; --folder PATH/{copy} goes on with them", highlight=False)
    if options.dry_run:
        console.print(_plan(jobs, options.recipe), highlight=False, markup=False)
        if not there:
            console.print(f"the data of {jobs[0].data} is not there yet; the first run downloads it", highlight=False)
        for job in todo:
            state = "under way" if job.run.exists() else "to do"
            console.print(f"{state:>9}  {job.name}" + (f" ({job.reduced})" if job.reduced else ""), highlight=False)
        return
    try:
        with _executor(options.scheduler) as executor:
            _run_jobs(jobs, options.jobs, executor)
    except Interrupted as error:
        where = " what is under way on the cluster runs to its end there; after that" * bool(options.scheduler)
        raise Interrupted(f"{error} in {jobs[0].out};{where} go on with:\n  {options.again}") from None
    console.print(f"next: aalp results {options.out}", highlight=False)


def _plan(jobs: Sequence[Job], recipe: str) -> str:
    """In a line, what a grid's runs train on and for how long."""
    epochs = sorted({job.setting.recipe.epochs for job in jobs})
    job = jobs[0]
    return (
        f"recipe {recipe}, {' or '.join(map(str, epochs))} epoch{'s' * (epochs != [1])}; {job.data}"
        f"{f' in {job.root}' if job.root else ''}, {job.train_images or 'all'} training and {job.test_images or 'all'} "
        "test images"
    )


def _grid(options: argparse.Namespace) -> list[Job]:
    """The jobs asked for; those for a scheduler name folders in full, and the device is found where they run."""
    if options.scheduler:
        for name in ("out", "folder", "root"):
            setattr(options, name, getattr(options, name) and getattr(options, name).resolve())
    device = options.device if options.scheduler else str(_checks.device(options.device))
    if options.jobs is None:
        options.jobs = cores() if device == "cpu" else 1
    names = ("seeds", "recipe", "folder", "root", "epochs", "train_images", "test_images", "observe")
    return grids.jobs_of(
        options.grid, options.out, options.methods.split(",") if options.methods else None, quick=options.quick,
        device=device, **{name: getattr(options, name) for name in names},
    )  # fmt: skip


@contextlib.contextmanager
def _executor(scheduler: str | None) -> Iterator[Executor | None]:
    """Of a Dask cluster, whose workers see the same folders; None for processes on this machine."""
    if scheduler is None:
        yield None
        return
    try:
        from distributed import Client
        from distributed.comm import resolve_address
    except ImportError:
        raise InputError("--scheduler needs Dask: pip install 'aalp_lib[cluster]'") from None
    try:
        resolve_address(scheduler)  # of an address that can be none, a client hangs when it is given up
        client = Client(scheduler, timeout="20s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise OSError(f"no Dask scheduler answers at {scheduler} ({error})") from error
    with client:
        yield client.get_executor(pure=False)


def _measure(options: argparse.Namespace) -> None:
    _set_threads(options.threads)
    device = _checks.device(options.device)
    folder = options.out / options.grid
    found = measurements.trained(folder)
    if not found:
        raise InputError(f"{folder} holds no finished run with its weights; aalp reproduce makes them")
    if options.data is None:
        whole = next((one for one in found if not one.half), None)
        origin = Origin.read(whole.run) if whole else Origin(found[0].record.data)
        if whole is None and origin.data not in data.SOURCES:
            raise InputError(
                f"these were trained on the images of a folder, '{origin.data}': say where it is with --data FOLDER"
            )
        options.data, options.root = origin.data, options.root or origin.root
    dataset = data.load(options.data or options.grid, root=options.root, device=device)
    if not installed():
        console.print("Without the extra \\[autoattack] there is neither Square nor AutoAttack.")
    with shown(True, "measuring", console) as tell:
        paths = measurements.measure(
            folder, dataset, kinds=options.kinds.split(","), images=options.images, seed=options.seed,
            precision=options.precision, progress=tell,
            methods=options.methods.split(",") if options.methods else None, seeds=options.seeds,
        )  # fmt: skip
    console.print(f"{len(paths)} measurement" + "s" * (len(paths) != 1), highlight=False)
    console.print(f"next: aalp results {options.out} --write", highlight=False)


def _results(options: argparse.Namespace) -> None:
    asked = {key: getattr(options, key) for key in ("data", "method", "seed", "recipe")}
    if options.write and (options.table or any(value is not None for value in asked.values())):
        raise InputError("--write remakes every table from all records; it goes with no filter and no --table")
    everything = collect.read(options.folder)
    for sentence in everything.left_out:
        print(f"aalp: left out: {sentence}", file=sys.stderr)
    if options.write:
        written = report.write(options.folder, everything)
        drawn = [figures.draw_all(found, found / "figures") for found in sorted(options.folder.glob("*/"))]
        for path in itertools.chain(written, *drawn):
            console.print(f"wrote {path}", highlight=False)
        if not any((written, *drawn)):
            console.print(f"nothing to write: no record below {options.folder} enters a table or a figure")
        return
    if everything.beside_checkpoints and not (everything.records or everything.ablations):
        print(
            f"aalp: no records but beside checkpoints, {everything.beside_checkpoints} in all; to see them, name the "
            "folder 'runs' that they are in",
            file=sys.stderr,
        )
    found = collect.select(everything, **asked)
    on_terminal = options.form is None and sys.stdout.isatty()
    form: report.Form = options.form or "markdown"
    if options.table:
        of_runs = any(value is not None for key, value in asked.items() if key != "data")
        wanted: dict[str, Any] = {"data": options.data, "which": options.which, "measured": of_runs}
        if on_terminal:
            _show_table(options.table, options.which, report.parts(found, options.table, **wanted))
        else:
            print(report.table(found, options.table, **wanted, form=form), end="")
    elif on_terminal:
        _show_listing(found, options.which)
    else:
        print(report.listing(found, options.which, form), end="")


def _diagnose(options: argparse.Namespace) -> None:
    device = _checks.device(options.device)
    _set_threads(options.threads)
    _checks.count("--images", options.images)
    _checks.count("--queries", options.queries, least=1 if options.strong else 0)
    model, subject, attack = _trained(options.run_folder, options.which, device)
    source, source_subject = None, None
    if options.source is not None:
        source, source_subject, _ = _trained(options.source, options.which, device)
    origin = _origin(options)
    dataset = data.load(origin.data, root=origin.root, device=device, image_size=origin.image_size)
    ball = suite_for(dataset.name, attack)["pgd100"]
    console.print(
        f"{schema.label(subject['method'])} on {dataset.name}, {options.which} epoch, eps {_levels(ball.eps)}, "
        f"{ball.steps} steps of {_levels(ball.step)}",
        highlight=False,
    )
    if not installed():
        console.print("Without the extra \\[autoattack] there is neither Square nor AutoAttack.")
    for kind in ("diagnosis", "strong") if options.strong else ("diagnosis",):
        with shown(True, "diagnosing" if kind == "diagnosis" else "attacking", console) as tell:
            found = measure_attacks(
                model, dataset.test[: options.images], ball, kind=kind, subject=subject | {"data": dataset.name},
                tier=tier(dataset.name), seed=options.seed, source=source, source_subject=source_subject,
                queries=options.queries, batch_size=options.batch_size, precision=options.precision, progress=tell,
            )  # fmt: skip
        if kind == "diagnosis":
            _show_diagnosis(diagnosis_of(found))
        else:
            console.print(_accuracies(found.values["accuracy"]))
        precision = f"-{found.config['precision']}" if found.config["precision"] != "float32" else ""
        name = f"{dataset.name}-{options.which}-{kind}-seed{options.seed}{precision}-first{options.images}.json"
        console.print(f"wrote {found.save(options.run_folder / 'measurements' / name)}", highlight=False)


def _data(options: argparse.Namespace) -> None:
    dataset = data.load(options.data, root=options.root, image_size=options.image_size)
    channels, height, width = dataset.train.images.shape[1:]
    console.print(f"{dataset.name}: {len(dataset.classes)} classes, images {channels}×{height}×{width}")
    table = Table("class", "train", "val", "test")
    counts = [s.labels.bincount(minlength=len(dataset.classes)) for s in (dataset.train, dataset.val, dataset.test)]
    for index, name in enumerate(dataset.classes):
        table.add_row(name, *(str(int(count[index])) for count in counts))
    table.add_section()
    table.add_row("all", *(str(int(count.sum())) for count in counts))
    console.print(table)


def _bench(options: argparse.Namespace) -> None:
    _set_threads(options.threads)
    console.print("Timing this library, its peers and the limit in turns; the machine should be idle.")

    def tell(row: bench.Row) -> None:
        mark = "" if row.met else "  [red]missed[/]"
        console.print(
            f"{row.what}: {row.reached:.2f} ({row.goal}){mark}\n  [dim]{escape(row.note)}[/]", highlight=False
        )

    record = bench.run(options.out, options.quick, tell)
    (options.out / "bench.md").write_text(bench.markdown(record), encoding="utf-8")
    written = ["bench.json", "bench.md"]
    if record["curves"]:
        plots_of_records.speed(record).savefig(options.out / "speed.png", dpi=plots.DPI)
        written.append("speed.png")
    for name in written:
        console.print(f"wrote {options.out / name}", highlight=False)


def _info(_: argparse.Namespace) -> None:
    device = _checks.device("auto")
    for key, value in machine.environment(device).items():
        console.print(f"{key:>12}  {value}", highlight=False)
    console.print(f"{'data sets':>12}  {', '.join(data.SOURCES)}, or a folder; downloads go to {data.cache()}")
    console.print(f"{'methods':>12}  {', '.join(f'{m.name} ({m.label})' for m in METHODS.values())}")
    console.print(f"{'models':>12}  {', '.join(models.MODELS)}")


# --- helpers ---------------------------------------------------------------------------------------------------------


def _command() -> list[str]:
    """How this program was started."""
    if distributed.launched() == 1:
        return ["aalp"]
    return ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], "-m", "aalp_lib"]


def _adjusted(setting: Setting, options: argparse.Namespace) -> Setting:
    """The setting with what was given on the command line in its place."""

    def given(target: Any, **names: Any) -> Any:
        return dataclasses.replace(target, **{k: v for k, v in names.items() if v is not None})

    recipe = given(
        setting.recipe,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        precision=options.precision,
    )
    attack = given(setting.attack, eps=options.eps, step=options.step, steps=options.steps)
    return dataclasses.replace(setting, recipe=recipe, attack=attack)


def _trained(folder: Path, which: str, device: torch.device) -> tuple[models.Classifier, dict[str, Any], Attack | None]:
    """The model of a run, what it is, and the attack in whose ball it was watched."""
    model = checkpoints.load_model(folder, which).to(device)
    run = checkpoints.read_json(folder / RUN)
    subject = {"method": run["method"]["name"], "seed": run["seed"], "model": which}
    return model, subject, Attack(**run["watched"]) if run["watched"] else None


def _origin(options: argparse.Namespace) -> Origin:
    """Where the run's data came from, unless the command line says otherwise."""
    if options.data is not None:
        return Origin(options.data, options.root, options.image_size)
    origin = Origin.read(options.run_folder)
    given = {"root": options.root, "image_size": options.image_size}
    return dataclasses.replace(origin, **{key: value for key, value in given.items() if value is not None})


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        _checks.count("--threads", threads)
        torch.set_num_threads(threads)


def _run_jobs(jobs: list[Job], workers: int, executor: Executor | None = None) -> list[schema.Record]:
    """Run jobs with a bar for each that is under way and one over all, and a line for each that is done."""
    records: list[schema.Record] = []
    with bars(console) as progress:
        each = _JobBars(progress, jobs)
        for record in run_jobs(jobs, workers, each.watch, executor):
            records.append(record)
            found = record.accuracy["last"]
            progress.console.print(
                f"{len(records)}/{len(jobs)}  {each.over}: clean {_percent(found['clean'])}, "
                f"PGD-40 {_percent(found['pgd40'])}; {record.seconds['training']:.0f} s training, "
                f"{record.seconds['evaluation']:.0f} s attacks",
                highlight=False,
            )
    return plots_of_records.in_table_order(records)


class _JobBars:
    """A bar for each job under way, and one for all, which counts a job not yet heard of as the largest so far.

    `over` names the job that was over last: that of the record which `run_jobs` yields next.
    """

    def __init__(self, progress: Progress, jobs: Sequence[Job]) -> None:
        self.progress, self.count, self.called = progress, len(jobs), _called(jobs)
        self.over = ""
        self.done: dict[str, int] = {}
        self.total: dict[str, int] = {}
        self.tasks: dict[str, TaskID] = {}
        self.overall = progress.add_task("all", total=None, text="")

    def watch(self, job: Job, done: int, total: int, text: str) -> None:
        name, over = job.name, done == total
        if over:
            self.over = self.called[name]
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(self.called[name], total=total, text="")
        self.total[name] = self.total.get(name, 0) if over else total
        self.done[name] = self.total[name] if over else done
        self.progress.update(self.tasks[name], completed=done, text=text, visible=not over)
        unheard = (self.count - len(self.total)) * max(self.total.values(), default=0)
        self.progress.update(self.overall, completed=sum(self.done.values()), total=sum(self.total.values()) + unheard)


def _called(jobs: Sequence[Job]) -> dict[str, str]:
    """What to call each job, by its name: its method, and variant and seed where the grid has several."""
    variants, seeds = ({getattr(job, key) for job in jobs} for key in ("variant", "seed"))
    parts = {
        job.name: (job.row.label, job.variant * (len(variants) > 1), f"seed {job.seed}" * (len(seeds) > 1))
        for job in jobs
    }
    return {name: ", ".join(filter(None, of)) for name, of in parts.items()}


def _percent(found: dict[str, float]) -> str:
    return f"{100 * found['accuracy']:.1f} %"


def _table(records: Sequence[schema.Record]) -> Table:
    names = schema.columns(records, "last")
    count = int(next(iter(records[0].accuracy["last"].values()))["count"])
    title = f"Correct test images in %, of {count}, with 95 % intervals"
    heads = (HEADINGS[name].replace("-", "\n") for name in names)
    table = Table("", *heads, title=title, **_PLAIN)
    for record in records:
        cells = [record.accuracy["last"][name] for name in names]
        table.add_row(
            schema.label(record.method),
            *(f"{100 * c['accuracy']:.1f}\n[dim]{100 * c['low']:.0f}–{100 * c['high']:.0f}[/]" for c in cells),
        )
    return table


def _show_table(number: int, which: collect.Which, parts: dict[str, list[report.Row]]) -> None:
    """One of the paper's tables on a terminal, its spans only where there is room for them."""
    console.print(report.caption(number, which), highlight=False, markup=False)
    shown = {name: rows for name, rows in parts.items() if rows}
    spans = all(44 + 13 * len(rows[0].published) <= console.width for rows in shown.values())
    for name, rows in shown.items():
        head, *lines = report.cells(rows, spans)
        table = Table(title=collect.title(name), **_PLAIN)
        for at, word in enumerate(head):
            number_column = 0 < at < len(head) - 1
            table.add_column(word, justify="right" if number_column else "left", no_wrap=number_column)
        for line in lines:
            table.add_row(*map(escape, line), style="" if line[-1] else "bold")  # the paper's has no verdict
        console.print(table, highlight=False)
    if not spans:
        console.print("Too narrow for the spans in brackets; --form markdown has them.", highlight=False)


def _show_listing(found: collect.Found, which: collect.Which) -> None:
    """The list of records on a terminal, a table for each data set; the devices are cut off where there is no room."""
    (_, *head), *lines = report.listed(found, which)
    if not lines:
        console.print("no records of runs")
    for name, of in itertools.groupby(lines, key=lambda line: line[0]):
        table = Table(title=name, **_PLAIN)
        table.add_column("method", min_width=14)
        for word in head[1:]:
            numbers, widest = word == "seed" or word in head[4:-1], 21 if word == "device" else None
            justify: Literal["left", "right"] = "right" if numbers else "left"
            table.add_column(word.replace("-", "\n"), justify=justify, no_wrap=word != "recipe", max_width=widest)
        for line in of:
            table.add_row(*map(escape, line[1:]))
        console.print(table, highlight=False)
    console.print(report.counted(found), end="", highlight=False)


def _levels(value: float) -> str:
    """A radius or step as papers write it: in grey levels where it is a whole number of them."""
    levels = value * 255
    return f"{levels:.0f}/255" if abs(levels - round(levels)) < 1e-6 else f"{value:g}"


def _accuracies(found: dict[str, dict[str, float]]) -> Table:
    table = Table("attack", "correct", "95 % interval", "images")
    for name, row in found.items():
        table.add_row(HEADINGS.get(name, name), *_cells(row), str(row["count"]))
    return table


def _cells(row: dict[str, float]) -> tuple[str, str]:
    return f"{100 * row['accuracy']:.2f} %", f"{100 * row['low']:.2f} to {100 * row['high']:.2f}"


def _show_diagnosis(found: Diagnosis) -> None:
    table = Table("attack", "correct", "95 % interval", "")
    for group in found.rows:
        for name, row, remark in group:
            table.add_row(name, *_cells(row), remark)
        table.add_section()
    console.print(table)
    for remark in found.remarks:
        console.print(remark, highlight=False)
    for sign in found.signs or ["No sign of gradient masking."]:
        console.print(f"[yellow]sign:[/] {escape(sign)}" if found.signs else sign, highlight=False)


# --- arguments -------------------------------------------------------------------------------------------------------


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults in every line, examples as they were written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aalp",
        description="Train and attack classifiers with the methods of Adaptive Adversarial Logits Pairing.",
        epilog="start with:\n  aalp demo",
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"aalp_lib {aalp_lib.__version__}")
    parser.set_defaults(run=lambda _: parser.print_help())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_demo(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_diagnose(commands)
    _add_reproduce(commands)
    _add_measure(commands)
    _add_results(commands)
    _add_data(commands)
    _add_bench(commands)
    _add(commands, "info", _info, "show versions, device, and the names that are known", "aalp info")
    return parser


def _fraction(text: str) -> float:
    """A number, or a fraction as the papers write it: 8/255."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"must be a number or a fraction, 0.3 or 8/255 say, not '{text}'") from None


def _add(commands: Any, name: str, run: Any, what: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=_Help,
    )
    parser.set_defaults(run=run)
    return parser


def _add_demo(commands: Any) -> None:
    parser = _add(
        commands,
        "demo",
        _demo,
        "train the seven methods of Table 2 on bundled digits and attack them",
        "aalp demo --out demo",
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for records, table and figures")
    parser.add_argument("--seed", type=int, default=0, help="the same seed on the same machine gives the same numbers")
    parser.add_argument("--jobs", type=int, default=cores(), help="methods trained at a time")
    parser.add_argument(
        "--quick", action="store_true", help="one epoch and 100 test images: shows that it runs, no more"
    )


def _add_train(commands: Any) -> None:
    example = "aalp train --data mnist --method aalp --epochs 10 --out runs/a"
    example += (
        "\n\none training on several GPUs, or on processes of the CPU; the result is the same up to rounding:\n"
        "  torchrun --nproc-per-node 4 -m aalp_lib train --data mnist --method aalp --out runs/b"
    )
    parser = _add(commands, "train", _train, "train one model with one method", example)
    _add_source(parser, "mnist-sample")
    parser.add_argument("--method", default="aalp", help=f"one of {', '.join(METHODS)}")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints; must not hold another run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    parser.add_argument("--seed", type=int, default=0, help="fixes weights, order, augmentation and starts")
    parser.add_argument("--recipe", default="fast", help="paper (as section 4.1 gives it) or fast (ours)")
    parser.add_argument("--model", help=f"one of {', '.join(models.MODELS)} (default: the data set's own)")
    parser.add_argument("--precision", help="float32 or bfloat16 (default: the recipe's)")
    numbers: tuple[tuple[str, Callable[[str], float], str], ...] = (
        ("epochs", int, "times through the training images"),
        ("batch-size", int, "images a step"),
        ("lr", float, "learning rate, or its peak"),
        ("eps", _fraction, "radius of the training attack, 0.3 or 8/255 say"),
        ("step", _fraction, "length of its steps"),
        ("steps", int, "how many of them"),
    )
    for name, kind, what in numbers:
        parser.add_argument(f"--{name}", type=kind, help=f"{what} (default: the recipe's)")
    _add_machine(parser)


def _add_evaluate(commands: Any) -> None:
    parser = _add(
        commands,
        "evaluate",
        _evaluate,
        "attack a trained model with Table 2's attacks",
        "aalp evaluate runs/a",
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the folder that aalp train wrote")
    parser.add_argument("--which", default="last", choices=("last", "best"), help="last epoch, or best on validation")
    parser.add_argument(
        "--reading", default="any", choices=("any", "last"), help="fooled by any iterate, or the last one"
    )
    _add_precision(parser)
    parser.add_argument("--images", type=int, help="only that many test images (default: all)")
    parser.add_argument("--batch-size", type=int, default=500, help="images attacked at a time")
    parser.add_argument("--seed", type=int, default=0, help="fixes the random starts")
    _add_source(parser, None)
    _add_machine(parser)


def _add_reproduce(commands: Any) -> None:
    what = "run the paper's experiments as a grid of jobs; what is done is kept, what was interrupted goes on"
    parser = _add(commands, "reproduce", _reproduce, what, "aalp reproduce mnist --seeds 0,1,2 --jobs 2")
    what = (
        "whose settings; ablations run on the bundled digits; reasons (on the full MNIST) and cifar10-reasons are "
        "changes of a row that may explain its distance from the paper's, and controls are AALP's halves without "
        "guidance"
    )
    parser.add_argument("grid", choices=tuple(grids.GRIDS), help=what)
    what = "names, with commas between them (default: Table 2's; of ablations, reasons and controls all of them)"
    parser.add_argument("--methods", help=what)
    parser.add_argument(
        "--seeds", type=_numbers, help="numbers, with commas between them (default: 0; of ablations 0,1,2)"
    )
    parser.add_argument("--recipe", default="fast", help="paper (as section 4.1 gives it) or fast (ours)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="the records go to OUT/GRID")
    parser.add_argument(
        "--jobs", type=int, help="runs at a time on this machine (default: one a core, or one on a GPU)"
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a Dask scheduler; its workers must see the folder --out"
    )
    parser.add_argument("--folder", type=Path, help="take the images from here: train/CLASS/*, test/CLASS/*")
    parser.add_argument("--root", type=Path, help="folder with the files in torchvision's layout (default: the cache)")
    parser.add_argument("--epochs", type=int, help="a reduced protocol: fewer epochs; the records say so")
    parser.add_argument("--train-images", type=int, help="a reduced protocol: fewer images; the records say so")
    parser.add_argument("--test-images", type=int, help="attack only that many test images (default: all)")
    parser.add_argument("--quick", action="store_true", help="one epoch and 100 test images: shows that it runs")
    what = "look at every network after every epoch, for figures 4, 9, 10 and 12; a fifth more time"
    parser.add_argument("--observe", action="store_true", help=what)
    parser.add_argument("--dry-run", action="store_true", help="say what is to do, and do nothing")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes CUDA where there is one")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between them, not '{text}'") from None


def _add_measure(commands: Any) -> None:
    what = "measure Table 1, the figures and stronger attacks on the models that aalp reproduce has trained"
    parser = _add(commands, "measure", _measure, what, "aalp measure mnist")
    parser.add_argument("grid", help="the folder in --out that aalp reproduce wrote: mnist, svhn, cifar10, ...")
    parser.add_argument("--out", type=Path, default=Path("results"), help="the folder of aalp reproduce")
    what = "with commas between: samples (Table 1, the figures), diagnosis, strong, attacks (Table 2's, set otherwise)"
    parser.add_argument("--kinds", default=",".join(measurements.KINDS), help=what)
    parser.add_argument("--methods", help="only models of these methods, names with commas between (default: all)")
    parser.add_argument("--images", type=int, default=1000, help="test images for diagnosis, strong, attacks")
    what = "only models trained with these, numbers with commas between them (default: all)"
    parser.add_argument("--seeds", type=_numbers, help=what)
    parser.add_argument("--seed", type=int, default=0, help="fixes the attacks' random starts")
    _add_precision(parser)
    _add_source(parser, None)
    _add_machine(parser)


def _add_results(commands: Any) -> None:
    what = "list records of runs, or show the paper's tables with ours beside them"
    parser = _add(commands, "results", _results, what, "aalp results results --table 2 --data mnist")
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("results"), metavar="FOLDER", help="where the records are"
    )
    parser.add_argument("--table", type=int, choices=tuple(report.TABLES), help="the paper's table of that number")
    parser.add_argument("--data", help="only that data set")
    parser.add_argument("--method", help=f"only that method: {', '.join(METHODS)}")
    parser.add_argument("--seed", type=int, help="only runs that were trained with that seed")
    parser.add_argument("--recipe", help="only that recipe: paper or fast")
    parser.add_argument("--which", default="last", choices=("last", "best"), help="last epoch, or best on validation")
    what = "what it is printed as (default: columns that fit a terminal, or else markdown)"
    parser.add_argument("--form", choices=("markdown", "csv"), help=what)
    parser.add_argument(
        "--write", action="store_true", help="remake tables and figures in FOLDER and the RESULTS.md beside it"
    )


def _add_diagnose(commands: Any) -> None:
    parser = _add(
        commands,
        "diagnose",
        _diagnose,
        "look for signs that a trained model's gradients mislead an attack",
        "aalp diagnose runs/a --strong",
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the folder that aalp train wrote")
    parser.add_argument("--which", default="last", choices=("last", "best"), help="last epoch, or best on validation")
    parser.add_argument(
        "--strong", action="store_true", help="also PGD and CW from 20 starts and, with [autoattack], AutoAttack"
    )
    parser.add_argument("--source", type=Path, metavar="RUN", help="another run, whose adversarial images are tried")
    _add_precision(parser)
    parser.add_argument("--images", type=int, default=1000, help="that many test images")
    parser.add_argument(
        "--queries", type=int, default=QUERIES, help="queries of Square an image (needs the extra [autoattack])"
    )
    parser.add_argument("--batch-size", type=int, default=500, help="images attacked at a time")
    parser.add_argument("--seed", type=int, default=0, help="fixes the random starts")
    _add_source(parser, None)
    _add_machine(parser)


def _add_data(commands: Any) -> None:
    parser = _add(
        commands,
        "data",
        _data,
        "fetch a data set if need be, and show what is in it",
        "aalp data --data mnist",
    )
    _add_source(parser, "mnist-sample")


def _add_bench(commands: Any) -> None:
    what = "time this library beside its peers and the limit (needs the extra [bench])"
    parser = _add(commands, "bench", _bench, what, "aalp bench --out bench")
    parser.add_argument(
        "--out", type=Path, default=Path("bench"), help="folder for the record, the table and the figure"
    )
    parser.add_argument("--quick", action="store_true", help="few steps, one round: shows that it runs, no more")
    parser.add_argument("--threads", type=int, help="processor threads (default: torch's choice)")


def _add_source(parser: argparse.ArgumentParser, default: str | None) -> None:
    names = ", ".join(data.SOURCES)
    note = "" if default else " (default: what the run was trained on)"
    parser.add_argument(
        "--data",
        default=default,
        help=f"{names}, or a folder with train/CLASS/*.png and test/CLASS/*.png{note}",
    )
    parser.add_argument("--root", type=Path, help="folder with the files in torchvision's layout (default: the cache)")
    parser.add_argument(
        "--image-size", type=int, help="resize the images of a folder to this side (default: as they are)"
    )


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", default="float32", help="of gradients: float32, bfloat16, or auto for the faster"
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes CUDA where there is one")
    parser.add_argument("--threads", type=int, help="processor threads (default: torch's choice)")
