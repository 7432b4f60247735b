"""The command `aalp`: demo, train, evaluate, data, bench, info."""

import argparse
import dataclasses
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import rich.box
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

import aalp_lib
from aalp_lib import _checks, bench, checkpoints, data, demo, distributed, experiments, methods, models, plots, results
from aalp_lib._checks import InputError
from aalp_lib.attacks import Attack
from aalp_lib.evaluate import HEADINGS, Report, evaluate
from aalp_lib.methods import METHODS
from aalp_lib.progress import bars, shown
from aalp_lib.train import RUN, Interrupted, fit

console = Console()


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
        except (InputError, OSError, FloatingPointError) as error:
            print(f"aalp{f', rank {rank}' if rank else ''}: {error}", file=sys.stderr)
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
    done = sum(experiments.finished(job) is not None for job in jobs)
    console.print(
        f"Training and attacking {len(jobs)} methods on the bundled digits, {options.jobs} at a time on "
        f"{experiments.cores()} cores" + (f"; {done} are done already." if done else ".")
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
    origin = experiments.Origin(options.data, options.root, options.image_size)
    dataset = distributed.in_turn(
        lambda: data.load(options.data, root=options.root, device=device, image_size=options.image_size)
    )
    setting = _adjusted(experiments.setting_for(dataset, options.recipe, options.model), options)
    method = methods.method(options.method)
    model = experiments.new_model(setting, options.seed).to(device)
    distributed.once(lambda: origin.save(options.out))
    recipe, attack = setting.recipe, setting.attack
    console.print(
        f"{method.label} on {dataset.name}, {setting.model['name']}: {recipe.epochs} epochs, "
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
    suite = experiments.suite_for(dataset.name, Attack(**run["watched"]) if run["watched"] else None)
    began = time.perf_counter()
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
    console.print(_report(report))
    record = results.Record(
        data=dataset.name,
        method=run["method"]["name"],
        seed=run["seed"],
        tier=experiments.tier(dataset.name),
        config={
            **run,
            "reading": options.reading,
            "evaluation_precision": options.precision,
            "evaluation_seed": options.seed,
            "test_images": options.images,
        },
        environment=results.environment(device),
        accuracy={options.which: results.accuracies(report)},
        outcomes={options.which: results.outcomes(report)},
        history={},
        seconds={"evaluation": time.perf_counter() - began},
    )
    images = f"-first{options.images}" if options.images else ""
    precision = f"-{options.precision}" if options.precision != "float32" else ""
    name = f"{dataset.name}-{options.which}-{options.reading}-seed{options.seed}{precision}{images}.json"
    console.print(f"wrote {record.save(options.run_folder / 'evaluations' / name)}", highlight=False)


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
        plots.speed(record).savefig(options.out / "speed.png", dpi=plots.DPI)
        written.append("speed.png")
    for name in written:
        console.print(f"wrote {options.out / name}", highlight=False)


def _info(_: argparse.Namespace) -> None:
    device = _checks.device("auto")
    for key, value in results.environment(device).items():
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


def _adjusted(setting: experiments.Setting, options: argparse.Namespace) -> experiments.Setting:
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


def _origin(options: argparse.Namespace) -> experiments.Origin:
    """Where the run's data came from, unless the command line says otherwise."""
    if options.data is not None:
        return experiments.Origin(options.data, options.root, options.image_size)
    origin = experiments.Origin.read(options.run_folder)
    given = {"root": options.root, "image_size": options.image_size}
    return dataclasses.replace(origin, **{key: value for key, value in given.items() if value is not None})


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        _checks.count("--threads", threads)
        torch.set_num_threads(threads)


def _run_jobs(jobs: list[experiments.Job], workers: int) -> list[results.Record]:
    """Run jobs with a bar for each that is under way and one over all; on no terminal, a line for each that is done."""
    records: list[results.Record] = []
    with bars(console) as progress:
        lines = _JobBars(progress, len(jobs))
        for record in experiments.run_jobs(jobs, workers, lines.watch):
            records.append(record)
            lines.finish(f"{record.data}-{record.method}-seed{record.seed}")
            found = record.accuracy["last"]
            progress.console.print(
                f"{len(records)}/{len(jobs)}  {results.label(record.method)}: clean {_percent(found['clean'])}, "
                f"PGD-40 {_percent(found['pgd40'])}; {record.seconds['training']:.0f} s training, "
                f"{record.seconds['evaluation']:.0f} s attacks",
                highlight=False,
            )
    return plots.in_table_order(records)


class _JobBars:
    """A bar for each job under way, and one for all, which counts a job not yet heard of as the largest so far."""

    def __init__(self, progress: Progress, count: int) -> None:
        self.progress, self.count = progress, count
        self.done: dict[str, int] = {}
        self.total: dict[str, int] = {}
        self.tasks: dict[str, TaskID] = {}
        self.overall = progress.add_task("all", total=None, text="")

    def watch(self, job: experiments.Job, done: int, total: int, text: str) -> None:
        if job.name not in self.tasks:
            self.tasks[job.name] = self.progress.add_task(results.label(job.method), total=total, text="")
        self.done[job.name], self.total[job.name] = done, total
        self.progress.update(self.tasks[job.name], completed=done, text=text)
        self._update()

    def finish(self, name: str) -> None:
        self.done[name] = self.total.setdefault(name, 0)
        if name in self.tasks:
            self.progress.update(self.tasks[name], visible=False)
        self._update()

    def _update(self) -> None:
        unheard = (self.count - len(self.total)) * max(self.total.values(), default=0)
        self.progress.update(self.overall, completed=sum(self.done.values()), total=sum(self.total.values()) + unheard)


def _percent(found: dict[str, float]) -> str:
    return f"{100 * found['accuracy']:.1f} %"


def _table(records: Sequence[results.Record]) -> Table:
    names = results.columns(records, "last")
    count = int(next(iter(records[0].accuracy["last"].values()))["count"])
    title = f"Correct test images in %, of {count}, with 95 % intervals"
    heads = (HEADINGS[name].replace("-", "\n") for name in names)
    table = Table("", *heads, title=title, padding=(0, 1, 0, 0), box=rich.box.SIMPLE_HEAD)
    for record in records:
        cells = [record.accuracy["last"][name] for name in names]
        table.add_row(
            results.label(record.method),
            *(f"{100 * c['accuracy']:.1f}\n[dim]{100 * c['low']:.0f}–{100 * c['high']:.0f}[/]" for c in cells),
        )
    return table


def _levels(value: float) -> str:
    """A radius or step as papers write it: in grey levels where it is a whole number of them."""
    levels = value * 255
    return f"{levels:.0f}/255" if abs(levels - round(levels)) < 1e-6 else f"{value:g}"


def _report(report: Report) -> Table:
    table = Table("attack", "correct", "95 % interval", "images")
    for name, outcome in report.items():
        low, high = outcome.interval
        table.add_row(
            HEADINGS.get(name, name),
            f"{100 * outcome.accuracy:.2f} %",
            f"{100 * low:.2f} to {100 * high:.2f}",
            str(outcome.count),
        )
    return table


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
    parser.add_argument("--jobs", type=int, default=experiments.cores(), help="methods trained at a time")
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
    parser.add_argument(
        "--precision", default="float32", help="of gradients: float32, bfloat16, or auto for the faster"
    )
    parser.add_argument("--images", type=int, help="only that many test images (default: all)")
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


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes CUDA where there is one")
    parser.add_argument("--threads", type=int, help="processor threads (default: torch's choice)")
