"""What each command of `aalp` does: a function that takes the options and says on the terminal what it has done."""

import dataclasses
import importlib.util
import os
import shlex
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aalp_lib import _checks, checkpoints, data, folders, models, seeds, zoo
from aalp_lib._checks import InputError
from aalp_lib.autoattack import installed
from aalp_lib.engine import distributed
from aalp_lib.evaluation import suite_in_ball
from aalp_lib.methods import METHODS, method
from aalp_lib.models import Classifier
from aalp_lib.progress import shown
from aalp_lib.reproduction import archive, demo, display, escaping, grids, machine, measurements, single, workers
from aalp_lib.reproduction.attack_measurements import diagnosis_of
from aalp_lib.reproduction.display import say
from aalp_lib.reproduction.jobs import Job, Origin, finished
from aalp_lib.reproduction.schema import HEADINGS, Measurement, Record
from aalp_lib.reproduction.settings import Setting, new_model, setting_for
from aalp_lib.reproduction.workers import cores
from aalp_lib.train import Interrupted, fit

OUT_OF_TIME = 75  # as sysexits.h has it: a temporary failure, try again


def run(options: Namespace, arguments: Sequence[str]) -> int:
    """Run a command; returns the exit status: 0, 1 for a run that failed, 2 for bad input, 130 after Ctrl-C, and 75 if
    `--minutes` are over and work is left."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: display.marked("note", str(message))
        try:
            if distributed.launched() > 1 and options.command != "train":
                raise InputError(
                    "under torchrun on several processes there is only 'train'; start the others as 'aalp'"
                )
            if getattr(options, "threads", None) is not None:
                _checks.count("--threads", options.threads, most=8 * cores())  # of very many, torch crashes
                torch.set_num_threads(options.threads)
            if getattr(options, "seed", None) is not None:
                _checks.seed("--seed", options.seed)
            if getattr(options, "batch_size", None) is not None:
                _checks.count("--batch-size", options.batch_size)
            globals()[f"do_{options.command}"](options)
        except (FloatingPointError, torch.OutOfMemoryError) as error:
            return _complain(error, 1)
        except OSError as error:
            return _complain(_named(error, options), 2)
        except InputError as error:
            return _complain(error, 2)
        except KeyboardInterrupt as error:
            status = OUT_OF_TIME if isinstance(error, workers.OutOfTime) else 130
            if not _rank():  # all of torchrun's processes stop together
                print(file=sys.stderr)
                _complain(error, status)
                if isinstance(error, Interrupted):
                    print(f"go on with:\n  {escaping.terminal(_again(options, arguments))}", file=sys.stderr)
            return status
    return 0


def _named(error: OSError, options: Namespace) -> OSError:
    """One that the system raised as a sentence that names the file, or else the folder that is written to."""
    if not error.strerror:
        return error
    return OSError(f"{error.filename or getattr(options, 'out', None) or 'the output'}: {error.strerror}")


def _complain(error: BaseException, status: int) -> int:
    """Say what went wrong and, of a grid, which run it was, and which failed too."""
    of = f", rank {_rank()}" if _rank() else ""
    said = "\n  ".join([f"aalp{of}: {str(error) or 'stopped'}", *getattr(error, "__notes__", ())])
    print(escaping.terminal(said), file=sys.stderr)
    return status


def _rank() -> int:
    return int(os.environ["RANK"]) if distributed.launched() > 1 else 0


def _again(options: Namespace, arguments: Sequence[str]) -> str:
    """The command that goes on where this one stopped."""
    torchrun = ["torchrun", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", "1"), "-m", "aalp_lib"]
    program = ["aalp"] if distributed.launched() == 1 else torchrun
    resume = ["--resume"] if options.command == "train" else []
    return shlex.join([*program, *(one for one in arguments if one != "--resume"), *resume])


def _next(*words: object) -> None:
    say(f"next: {shlex.join(['aalp', *map(str, words)])}")


def _given(options: Namespace, *names: str) -> dict[str, Any]:
    """Those options that say something: neither left out nor a switch that is off."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None and value is not False}


# --- commands --------------------------------------------------------------------------------------------------------


def do_demo(options: Namespace) -> None:
    """Compare the methods of Table 2 on the bundled digits."""
    jobs = demo.jobs(options.out, options.seed, options.quick)
    checkpoints.check_writable(options.out)
    at_once = cores() if options.jobs is None else options.jobs
    say(
        f"Training and attacking {len(jobs)} methods on the bundled digits, {at_once} at a time on {cores()} cores; "
        f"{len(jobs) - len(_left(jobs))} are done already."
    )
    records = display.run_all(jobs, at_once)
    display.table_2(records)
    display.wrote(demo.write(records, jobs, options.out))


def do_train(options: Namespace) -> None:
    """Train a model, on all of torchrun's processes if it started this one."""
    device, out = distributed.device(options.device), options.out
    changes = {
        "recipe": _given(options, "epochs", "batch_size", "lr", "precision"),
        "attack": _given(options, "eps", "step", "steps"),
    }
    with distributed.joined(device):
        display.console.quiet = distributed.rank() != 0
        if not options.resume and (out / folders.RUN).exists():
            raise InputError(f"{out} already holds a run; --resume goes on with it")
        origin = Origin(options.data, options.root, options.image_size)
        dataset = distributed.in_turn(lambda: origin.load(device))
        setting, network = _new_network(options, dataset, changes)
        row = method(options.method)
        with folders.held(out):
            distributed.once(lambda: origin.save(out))
            display.training(row, dataset, setting)
            history = fit(
                network.to(device), dataset, row, setting.attack, seed=options.seed, recipe=setting.recipe, out=out,
                resume=options.resume, progress=True,
            )  # fmt: skip
        display.history(history)
        _next("evaluate", out, *(("--model", options.model) if single.is_own(options.model) else ()))


def _new_network(options: Namespace, dataset: data.Dataset, changes: dict[str, Any]) -> tuple[Setting, Classifier]:
    """The setting of a training, and its network with new weights."""
    if not single.is_own(options.model):
        setting = setting_for(dataset, options.recipe, options.model).changed(**changes)
        return setting, new_model(setting, options.seed)
    setting = setting_for(dataset, options.recipe).changed(**changes)
    with seeds.restored():
        torch.manual_seed(options.seed)
        return dataclasses.replace(setting, model={"name": options.model}), single.own_network(options.model)


def do_evaluate(options: Namespace) -> None:
    """Attack a trained model with Table 2's attacks."""
    run, dataset = _run_and_data(options, "eps {eps}, step {step}")
    how = _given(options, "images", "reading", "precision", "batch_size", "seed")
    record = single.evaluate(run, dataset, **how)
    display.accuracies(record.accuracy[options.which])
    _keep(options, run, record)


def do_attack(options: Namespace) -> None:
    """Save adversarial images."""
    run, dataset = _run_and_data(options)
    if options.norm == "l2" and options.eps is None:
        raise InputError("--norm l2 needs an --eps, 2 say: Table 2 has none in L2")
    eps, norm = options.eps, options.norm
    suite = run.suite(dataset) if eps is None else suite_in_ball(eps, eps / 4, norm=norm)
    attack = suite["l2-" * (norm == "l2") + options.attack]
    say(f"{HEADINGS[options.attack]}, {attack.ball}")
    if any(options.out.iterdir()):
        raise InputError(f"{options.out} is not empty; name another folder for the images")
    images = dataset.test[: options.images]
    made = single.attacked(run.model, images, attack, batch_size=options.batch_size, seed=options.seed)
    sheet = single.save_images(made, dataset.classes, options.out)
    say(
        f"{made.right} of {display.plural(len(made.pixels), 'image')} right without an attack, {made.fooled} of them "
        f"fooled by it, {made.kept} still after rounding to 8 bits"
    )
    display.wrote([*sheet, f"{options.out}/CLASS/NUMBER.png, each by its true class"])


def do_diagnose(options: Namespace) -> None:
    """Look for signs of gradient masking; with --strong, attack strongly too."""
    if options.queries is not None:
        _checks.count("--queries", options.queries, least=1 if options.strong else 0)
    run, dataset = _run_and_data(options, "eps {eps}, {steps} steps of {step}")
    _name_what_is_missing()
    device = dataset.test.images.device
    source = single.Run.load(options.source, options.which, device) if options.source else None
    how = _given(options, "images", "queries", "batch_size", "seed", "precision")
    for kind in ("diagnosis", "strong") if options.strong else ("diagnosis",):
        found = single.diagnose(run, dataset, kind=kind, source=source, **how)
        if kind == "diagnosis":
            display.diagnosis(diagnosis_of(found))
        else:
            display.accuracies(found.values["accuracy"])
        _keep(options, run, found)


def _run_and_data(options: Namespace, words: str = "") -> tuple[single.Run, data.Dataset]:
    """The network that is named, and what it was trained on unless other data are; --out can be written."""
    device = _checks.device(options.device)
    if options.images is not None:
        _checks.count("--images", options.images)
    run = single.Run.load(options.run, options.which, device, options.model)
    dataset = _loaded(options, run.origin, device)
    run.look_at_classes(dataset)
    options.out = options.out or run.folder
    if options.out:
        checkpoints.check_writable(options.out)
    attack = words and ", " + display.ball(run.suite(dataset)["pgd100"], words)
    say(f"{run.config['method']['label']} on {dataset.name}, {options.which} epoch{attack}")
    return run, dataset


def _keep(options: Namespace, run: single.Run, made: Record | Measurement) -> None:
    if options.out:
        display.wrote([run.keep(made, options.out)])


def _loaded(options: Namespace, usual: Origin | None, device: torch.device) -> data.Dataset:
    """The data that are named, or those that are usual here."""
    given = _given(options, "data", "root", "image_size")
    if "data" in given:
        return Origin(**given).load(device)
    if usual is None:
        raise InputError(f"nothing in {options.run} says what it was trained on; name it with --data")
    return dataclasses.replace(usual, **given).load(device)


def _name_what_is_missing() -> None:
    if not installed():
        say("Without the extra [autoattack] there is neither Square nor AutoAttack.")


def do_reproduce(options: Namespace) -> None:
    """Run what is not done yet of a grid."""
    jobs = _grid(options)
    todo = _left(jobs)
    # a cluster's workers see their own; InputError if a folder that was named is not there
    missing = bool(todo) and not options.scheduler and not data.present(jobs[0].data, jobs[0].root)
    say(f"{display.plural(len(jobs), 'run')} into {jobs[0].out}, {len(jobs) - len(todo)} of them done already")
    if options.dry_run:
        display.plan(jobs, todo, options.recipe or "fast", missing)
        return
    checkpoints.check_writable(jobs[0].out)
    at_once = (cores() if jobs[0].device == "cpu" else 1) if options.jobs is None else options.jobs
    try:
        with workers.cluster(options.scheduler) as executor:
            display.run_all(jobs, at_once, executor, options.minutes)
    except Interrupted as error:
        if options.scheduler and not isinstance(error, workers.OutOfTime):
            error.add_note("what is under way on the cluster runs to its end there; wait for that")
        raise
    _next("results", options.out)


def _grid(options: Namespace) -> list[Job]:
    protocol = ("methods", "seeds", "recipe", "epochs", "test_images", "quick", "observe")
    asked = _given(options, *protocol, "folder", "root", "out", "device")
    if options.scheduler:  # the workers see the same folders, from elsewhere, and each finds its device itself
        asked = {key: value.resolve() if isinstance(value, Path) else value for key, value in asked.items()}
    else:
        asked["device"] = str(_checks.device(options.device))
    return grids.jobs_of(options.grid, **asked)


def _left(jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if finished(job) is None]


def do_measure(options: Namespace) -> None:
    """Measure what is missing of a grid's trained models."""
    device, folder = _checks.device(options.device), options.out / options.grid
    found = measurements.trained(folder)
    if not found:
        raise InputError(f"{folder} holds no finished run with its weights; aalp reproduce makes them")
    dataset = _loaded(options, None if options.data else measurements.origin(found), device)
    checkpoints.check_writable(folder)
    _name_what_is_missing()
    how = _given(options, "kinds", "methods", "seeds", "images", "seed", "precision")
    with shown(True, "measuring", display.console) as tell:
        paths = measurements.measure(folder, dataset, progress=tell, **how)
    say(display.plural(len(paths), "measurement"))
    _next("results", options.out, "--write")


def do_results(options: Namespace) -> None:
    """List records, show a table, or remake all pages and figures."""
    asked = {key: getattr(options, key) for key in ("data", "method", "seed", "recipe")}
    filters = [key for key, value in asked.items() if value is not None]
    if options.write and (options.table or filters):
        raise InputError("--write remakes every page from all records; it goes with no filter and no --table")
    if missing := [name for name in ("jinja2", "pandas") if importlib.util.find_spec(name) is None]:
        raise InputError(f"aalp results needs {' and '.join(missing)}: pip install 'aalp_lib[reproduction]'")
    everything = archive.records(options.folder)
    for sentence in everything.left_out:
        print(f"aalp: left out: {escaping.terminal(sentence)}", file=sys.stderr)
    if options.write:
        _write(options, everything)
        return
    if everything.beside_checkpoints and not everything.runs:
        print(
            f"aalp: no records but beside checkpoints, {everything.beside_checkpoints} in all; to see them, name the "
            "folder 'runs' that they are in",
            file=sys.stderr,
        )
    found = everything.select(**asked)
    if options.table:
        _table(options, found, any(key != "data" for key in filters))
    else:
        _list(options, found)


def _write(options: Namespace, everything: archive.Records) -> None:
    from aalp_lib.reproduction import report  # pandas and jinja2 are an extra

    checkpoints.check_writable(options.folder)
    written = report.write(options.folder, everything)
    display.wrote(written)
    if not written:
        say(f"nothing to write: no record below {options.folder} enters a table or a figure")


def _table(options: Namespace, found: archive.Records, of_runs: bool) -> None:
    from aalp_lib.reproduction import tables

    table = tables.beside_paper(found, options.table, options.data, options.which, measured=of_runs)
    spans = options.form == "markdown" or display.has_room(44 + 13 * table["column"].nunique())
    parts = {tables.title(data): tables.shown(rows, spans) for data, rows in tables.by_set(table).items()}
    notes = [f"Table {options.table}. {tables.CAPTIONS[options.table]}"]
    notes += [] if spans else ["Too narrow for the spans in brackets; --form markdown has them."]
    display.results(options.form, table, parts, notes)


def _list(options: Namespace, found: archive.Records) -> None:
    from aalp_lib.reproduction import frames, tables

    runs = tables.runs(found, options.which)
    sets: Any = [] if runs.empty else runs.groupby("data", sort=False)
    parts = {str(data): of.drop(columns="data") for data, of in sets}
    display.results(options.form, frames.frame(found).drop(columns="right"), parts, [tables.counted(found)])


def do_data(options: Namespace) -> None:
    """Fetch a data set if need be, and show what is in it."""
    display.dataset(data.load(options.data, root=options.root, image_size=options.image_size))


def do_bench(options: Namespace) -> None:
    """Time this library beside its peers."""
    checkpoints.check_writable(options.out)
    from aalp_lib.reproduction import bench  # torch's benchmark looks for a compiler

    if options.device is None:
        say("Timing this library, its peers and the limit in turns; the machine should be idle.")
        record = bench.run(options.out, options.quick, display.timed)
    else:
        record = bench.on_device(options.out, _checks.device(options.device), options.quick)
    display.wrote(bench.write(record, options.out))


def do_info(_: Namespace) -> None:
    """Show versions, device, and the names that are known."""
    known = {
        "data sets": f"{', '.join(data.SOURCES)}, or a folder; downloads go to {data.cache()}",
        "methods": ", ".join(f"{one.name} ({one.label})" for one in METHODS.values()),
        "models": ", ".join([*models.MODELS, *(f"{library}:NAME" for library in models.LIBRARIES)]),
        "networks": f"{', '.join(zoo.index())}, bundled",
    }
    for key, value in (machine.environment(_checks.device("auto")) | known).items():
        say(f"{key:>12}  {value}")
