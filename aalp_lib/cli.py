"""The command `aalp`: its sub-commands and their options as a table; `commands` has what they do.

Nothing here imports torch, so that help comes at once.
"""

import argparse
import contextlib
import io
import math
import os.path
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import aalp_lib
from aalp_lib.reproduction import escaping

Options = dict[str, dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, as of `commands.run`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _write_what_can_be_written()
    top = parser()
    options = top.parse_args(arguments)
    if options.command is None:
        top.print_help()
        return 0
    from aalp_lib import commands  # imports torch

    return commands.run(options, arguments)


def _write_what_can_be_written() -> None:
    """Let a terminal or log that has no such character show "?" in its place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


# --- kinds of options ------------------------------------------------------------------------------------------------


def _option(what: str, default: Any = None, **more: Any) -> dict[str, Any]:
    return {"help": what, "default": default} | more


def _number(what: str, default: int | None = None) -> dict[str, Any]:
    return _option(what, default, type=int, metavar="N")


def _level(what: str) -> dict[str, Any]:
    return _option(what, type=_fraction, metavar="X")


def _path(what: str, default: str | None = None, **more: Any) -> dict[str, Any]:
    return _option(what, default, type=_expanded, metavar="FOLDER") | more


def _several(what: str, kind: type = str) -> dict[str, Any]:
    """Values with commas between them, as a tuple."""

    def read(text: str) -> tuple[Any, ...]:
        try:
            return tuple(map(kind, text.split(",")))
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be whole numbers with commas between them, not '{text}'") from None

    return _option(what, type=read, metavar="N,N" if kind is int else "A,B")


def _flag(what: str) -> dict[str, Any]:
    return _option(what, False, action="store_true")


def _fraction(text: str) -> float:
    """A number, or a fraction as the papers write it: 8/255."""
    with contextlib.suppress(ValueError, ZeroDivisionError, OverflowError):
        value = float(Fraction(text)) if "/" in text else float(text)
        if math.isfinite(value):
            return value
    raise argparse.ArgumentTypeError(f"must be a number or a fraction, 0.3 or 8/255 say, not '{text}'")


def _expanded(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(text).expanduser()


# --- options that several commands have -------------------------------------------------------------------------------

METHODS = "raw, adv, alp, trades, aalp_gd, aalp_sw, aalp, raw_gd, adv_gd"
DATA = "mnist-sample, mnist, svhn, svhn-part, cifar10, or a folder with train/CLASS/*.png and test/CLASS/*.png"
OWN = "module:function, which returns it"
SETS = ("mnist", "svhn", "svhn-part", "cifar10", "mnist-sample")
VARIANTS = ("ablations", "reasons", "cifar10-reasons", "controls")
COLUMNS = ("fgsm", "pgd10", "pgd20", "pgd40", "pgd100", "cw10", "cw20", "cw40", "cw100")
PLACE: Options = {"--root": _path("folder of the data in torchvision's layout (default: the cache)")}
SIZE: Options = {"--image-size": _number("resize a folder's images to this side")}
DEVICE: Options = {"--device": _option("cpu, cuda, cuda:1, ...; auto is CUDA where there is one", "auto")}
MACHINE: Options = DEVICE | {"--threads": _number("processor threads (default: torch's choice)")}
WHICH: Options = {
    "--which": _option("after the last epoch, or the best on validation", "last", choices=("last", "best"))
}
PRECISION: Options = {"--precision": _option("of gradients: float32, bfloat16, or auto for the faster", "float32")}


def _data(usual: str, default: str | None = None) -> Options:
    said = f"{DATA} (default: {usual})" if usual else DATA
    return {"--data": _option(said, default, type=os.path.expanduser)} | PLACE | SIZE


def _attacked(images: int | None, out: dict[str, Any]) -> Options:
    """What every command has that attacks one trained network."""
    return {
        "run": _option("a folder that aalp train wrote, or a bundled network: mnist/aalp", metavar="RUN"),
        "--out": out,
        "--images": _number("that many test images" + " (default: all)" * (images is None), images),
        **_data("what it was trained on, or mnist-sample for a bundled network"),
        "--model": _option(f"what makes a network of your own: {OWN}"),
        **WHICH,
        "--batch-size": _number("images attacked at a time", 500),
        "--seed": _number("fixes the random starts", 0),
    } | MACHINE


KEPT = _path("folder for the record (default: RUN; that of a bundled network is not kept)")


# --- commands --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """What a command is for, an example, and its options as the arguments of `add_argument`."""

    what: str
    example: str
    options: Options


COMMANDS = {
    "demo": Command(
        "train and attack the paper's seven methods on bundled digits",
        "aalp demo --out demo",
        {
            "--out": _path("folder for records, table and figures", "demo"),
            "--seed": _number("the same seed on the same machine gives the same numbers", 0),
            "--jobs": _number("methods trained at a time (default: one a core)"),
            "--quick": _flag("one epoch and 100 test images: shows that it runs, no more"),
        },
    ),
    "train": Command(
        "train one network with one method",
        "aalp train --data mnist --method aalp --epochs 10 --out runs/a\n\n"
        "on several GPUs, or processes of the CPU; the result is the same up to rounding:\n"
        "  torchrun --nproc-per-node 4 -m aalp_lib train --data mnist --method aalp --out runs/b",
        {
            "--out": _path("folder for checkpoints; must not hold another run", required=True),
            "--method": _option(METHODS, "aalp"),
            "--model": _option(f"lenet, resnet9, resnet32, torchvision:NAME, timm:NAME or {OWN} (default: the data's)"),
            **_data("", "mnist-sample"),
            "--recipe": _option("paper (as section 4.1 gives it) or fast (ours); it sets what follows", "fast"),
            "--epochs": _number("times through the training images"),
            "--batch-size": _number("images a step"),
            "--lr": _level("learning rate, or its peak"),
            "--precision": _option("float32 or bfloat16"),
            "--eps": _level("radius of the training attack, 0.3 or 8/255 say"),
            "--step": _level("length of its steps"),
            "--steps": _number("how many of them"),
            "--seed": _number("fixes weights, order, augmentation and starts", 0),
            "--resume": _flag("go on with the run in --out"),
        }
        | MACHINE,
    ),
    "evaluate": Command(
        "accuracy of a trained network under Table 2's attacks",
        "aalp evaluate mnist/aalp --images 200",
        _attacked(None, KEPT)
        | PRECISION
        | {"--reading": _option("fooled by any iterate, or the last one", "any", choices=("any", "last"))},
    ),
    "attack": Command(
        "save adversarial images of a trained network, as PNG",
        "aalp attack mnist/aalp --out adversarial",
        _attacked(16, _path("empty or new folder for sheet.png and CLASS/NUMBER.png", required=True))
        | {
            "--attack": _option(", ".join(COLUMNS), "pgd100", choices=COLUMNS, metavar="NAME"),
            "--eps": _level("radius, 0.3 or 8/255 say; steps are a quarter of it (default: Table 2's of the data)"),
            "--norm": _option("of the ball; l2 needs an --eps, 2 say", "linf", choices=("linf", "l2")),
        },
    ),
    "diagnose": Command(
        "look for signs that its gradients mislead an attack",
        "aalp diagnose mnist/aalp --images 50",
        _attacked(1000, KEPT)
        | PRECISION
        | {
            "--strong": _flag("also PGD and CW from 20 starts and, with [autoattack], AutoAttack"),
            "--source": _option("another RUN, whose adversarial images are tried", metavar="RUN"),
            "--queries": _number("queries of Square an image, with [autoattack] (default: 5000)"),
        },
    ),
    "data": Command(
        "show what is in a data set, fetched if need be",
        "aalp data mnist-sample",
        {"data": _option(DATA, "mnist-sample", nargs="?", metavar="DATA", type=os.path.expanduser)} | PLACE | SIZE,
    ),
    "info": Command("show versions, device, and the names that are known", "aalp info", {}),
    "reproduce": Command(
        "run the paper's experiments; start it again and it goes on",
        "aalp reproduce mnist --seeds 0,1,2 --jobs 2",
        {
            "grid": _option(
                f"a data set's Table 2, {', '.join(SETS)}, or variants of its rows, {', '.join(VARIANTS)}",
                choices=SETS + VARIANTS,
                metavar="GRID",
            ),
            "--methods": _several("names (default: Table 2's, or all variants)"),
            "--seeds": _several("numbers (default: 0; of ablations 0,1,2)", int),
            "--recipe": _option("paper (as section 4.1 gives it) or fast (ours; the default)"),
            "--out": _path("the records go to OUT/GRID", "results"),
            "--jobs": _number("runs at a time (default: one a core, or one on a GPU)"),
            "--minutes": _level(
                "end in time, at checkpoints; with status 75 if work is left, which the same command does"
            ),
            "--scheduler": _option(
                "of a Dask cluster whose workers see --out; in a network that you trust alone, for Dask unpickles",
                metavar="ADDRESS",
            ),
            "--data": _path("a folder with the grid's images instead: train/CLASS/*, test/CLASS/*", dest="folder"),
            **PLACE,
            "--epochs": _number("a reduced protocol: fewer epochs; the records say so"),
            "--test-images": _number("attack only that many test images (default: all)"),
            "--quick": _flag("one epoch and 100 test images: shows that it runs"),
            "--observe": _flag("look at every network after every epoch, for figures 4, 9, 10, 12"),
            "--dry-run": _flag("say what is to do, and do nothing"),
        }
        | DEVICE,
    ),
    "measure": Command(
        "measure the networks of aalp reproduce: Table 1, the figures",
        "aalp measure mnist",
        {
            "grid": _option("the folder in --out that aalp reproduce wrote: mnist, svhn, cifar10, ...", metavar="GRID"),
            "--out": _path("the folder of aalp reproduce", "results"),
            "--kinds": _several("samples, diagnosis, strong, attacks (default: all)"),
            "--methods": _several("only networks of these methods (default: all)"),
            "--seeds": _several("only networks trained with these (default: all)", int),
            "--images": _number("test images for diagnosis, strong, attacks", 1000),
            "--seed": _number("fixes the random starts", 0),
        }
        | PRECISION
        | _data("what the grid was trained on")
        | MACHINE,
    ),
    "results": Command(
        "list records, or show the paper's tables with ours beside them",
        "aalp results results --table 2 --data mnist",
        {
            "folder": _path("where the records are", "results", nargs="?"),
            "--table": _option("the paper's table of that number", choices=(1, 2, 3, 4), type=int),
            "--data": _option("only that data set"),
            "--method": _option(f"only that method: {METHODS}"),
            "--seed": _number("only runs that were trained with that seed"),
            "--recipe": _option("only that recipe: paper or fast"),
            **WHICH,
            "--form": _option("instead of columns that fit the terminal", choices=("markdown", "csv")),
            "--write": _flag("remake tables and figures in FOLDER and the RESULTS.md beside it"),
        },
    ),
    "bench": Command(
        "time this library beside its peers (needs the extra [bench])",
        "aalp bench --out bench",
        {
            "--out": _path("folder for the record, the table and the figure", "bench"),
            "--device": _option("only what this device trains and attacks, some minutes; put into the record in OUT"),
            "--quick": _flag("few steps, one round: shows that it runs, no more"),
            "--threads": MACHINE["--threads"],
        },
    ),
}


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults in every line, examples as they were written."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Shows what it was given without control characters."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(escaping.terminal(message), file)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; `command` is None where none is given."""
    top = _Parser(
        prog="aalp",
        description="Train and attack image classifiers; the methods of Adaptive Adversarial Logits Pairing.",
        epilog="start with:\n  aalp evaluate mnist/aalp --images 200",
        formatter_class=_Help,
    )
    top.add_argument("--version", action="version", version=f"aalp_lib {aalp_lib.__version__}")
    several = top.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, command in COMMANDS.items():
        needed = [how.get("metavar", option) for option, how in command.options.items() if option[0] != "-"]
        needed += [f"{option} {how['metavar']}" for option, how in command.options.items() if how.get("required")]
        one = several.add_parser(
            name,
            usage=" ".join(["aalp", name, *needed, "[options]"]),
            help=command.what,
            description=command.what[0].upper() + command.what[1:] + ".",
            epilog=f"example:\n  {command.example}",
            formatter_class=_Help,
        )
        for option, how in command.options.items():
            one.add_argument(option, **how)
    return top
