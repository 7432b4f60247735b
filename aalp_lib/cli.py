"""The command `aalp`: its sub-commands and their options as a table; `commands` has what they do.

Nothing here imports torch, so that help comes at once.
"""

import argparse
import io
import os.path
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import aalp_lib

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


def _text(what: str, default: str | None = None, **more: Any) -> dict[str, Any]:
    return {"help": what, "default": default} | more


def _number(what: str, default: int | None = None) -> dict[str, Any]:
    return {"help": what, "default": default, "type": int}


def _level(what: str) -> dict[str, Any]:
    return {"help": what, "type": _fraction}


def _path(what: str, default: str | None = None, **more: Any) -> dict[str, Any]:
    return {"help": what, "default": default and Path(default), "type": _expanded} | more


def _listed(what: str, kind: Any = str, default: str | None = None) -> dict[str, Any]:
    return {"help": what, "default": default, "type": lambda text: _several(text, kind)}


def _flag(what: str) -> dict[str, Any]:
    return {"help": what, "action": "store_true", "default": False}


def _one_of(what: str, names: Sequence[Any], default: str | None = None, **more: Any) -> dict[str, Any]:
    return {"help": what, "choices": names, "default": default} | more


def _fraction(text: str) -> float:
    """A number, or a fraction as the papers write it: 8/255."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"must be a number or a fraction, 0.3 or 8/255 say, not '{text}'") from None


def _expanded(text: str) -> Path:
    return Path(text).expanduser()


def _several(text: str, kind: Any) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between them, not '{text}'") from None


# --- options that several commands have -------------------------------------------------------------------------------

METHODS = "raw, adv, alp, trades, aalp_gd, aalp_sw, aalp, raw_gd, adv_gd"
_LAYOUT = "a folder with train/CLASS/*.png and test/CLASS/*.png"
_ROOT = _path("folder with the files in torchvision's layout (default: the cache)")
_DEVICE = {"--device": _text("cpu, cuda, cuda:1, ...; auto takes CUDA where there is one", "auto")}
MACHINE: Options = _DEVICE | {"--threads": _number("processor threads (default: torch's choice)")}
RUN: Options = {
    "run_folder": _path("the folder that aalp train wrote", metavar="RUN"),
    "--which": _one_of("last epoch, or best on validation", ("last", "best"), "last"),
}
ATTACKED: Options = {
    "--precision": _text("of gradients: float32, bfloat16, or auto for the faster", "float32"),
    "--seed": _number("fixes the attacks' random starts", 0),
}
BATCH: Options = {"--batch-size": _number("images attacked at a time", 500)}


def _source(default: str | None = None) -> Options:
    note = "" if default else " (default: what the run was trained on)"
    return {
        "--data": _text(
            f"mnist-sample, mnist, svhn, svhn-part, cifar10, or {_LAYOUT}{note}", default, type=os.path.expanduser
        ),
        "--root": _ROOT,
        "--image-size": _number("resize the images of a folder to this side (default: as they are)"),
    }


# --- commands --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """What a command is for, an example, and its options as the arguments of `add_argument`."""

    what: str
    example: str
    options: Options


COMMANDS = {
    "demo": Command(
        "train the seven methods of Table 2 on bundled digits and attack them",
        "aalp demo --out demo",
        {
            "--out": _path("folder for records, table and figures", "demo"),
            "--seed": _number("the same seed on the same machine gives the same numbers", 0),
            "--jobs": _number("methods trained at a time (default: one a core)"),
            "--quick": _flag("one epoch and 100 test images: shows that it runs, no more"),
        },
    ),
    "train": Command(
        "train one model with one method",
        "aalp train --data mnist --method aalp --epochs 10 --out runs/a\n\n"
        "one training on several GPUs, or on processes of the CPU; the result is the same up to rounding:\n"
        "  torchrun --nproc-per-node 4 -m aalp_lib train --data mnist --method aalp --out runs/b",
        _source("mnist-sample")
        | {
            "--method": _text(f"one of {METHODS}", "aalp"),
            "--out": _path("folder for checkpoints; must not hold another run", required=True),
            "--resume": _flag("go on with the run in that folder"),
            "--seed": _number("fixes weights, order, augmentation and starts", 0),
            "--recipe": _text("paper (as section 4.1 gives it) or fast (ours)", "fast"),
            "--model": _text("lenet, resnet9 or resnet32 (default: the data set's own)"),
            "--precision": _text("float32 or bfloat16 (default: the recipe's)"),
            "--epochs": _number("times through the training images (default: the recipe's)"),
            "--batch-size": _number("images a step (default: the recipe's)"),
            "--lr": _level("learning rate, or its peak (default: the recipe's)"),
            "--eps": _level("radius of the training attack, 0.3 or 8/255 say (default: the recipe's)"),
            "--step": _level("length of its steps (default: the recipe's)"),
            "--steps": _number("how many of them (default: the recipe's)"),
        }
        | MACHINE,
    ),
    "evaluate": Command(
        "attack a trained model with Table 2's attacks",
        "aalp evaluate runs/a",
        RUN
        | {
            "--reading": _one_of("fooled by any iterate, or the last one", ("any", "last"), "any"),
            "--images": _number("only that many test images (default: all)"),
        }
        | BATCH
        | ATTACKED
        | _source()
        | MACHINE,
    ),
    "diagnose": Command(
        "look for signs that a trained model's gradients mislead an attack",
        "aalp diagnose runs/a --strong",
        RUN
        | {
            "--strong": _flag("also PGD and CW from 20 starts and, with [autoattack], AutoAttack"),
            "--source": _path("another run, whose adversarial images are tried", metavar="RUN"),
            "--images": _number("that many test images", 1000),
            "--queries": _number("queries of Square an image, with [autoattack] (default: 5000)"),
        }
        | BATCH
        | ATTACKED
        | _source()
        | MACHINE,
    ),
    "reproduce": Command(
        "run the paper's experiments as a grid of jobs; what is done is kept, what was interrupted goes on",
        "aalp reproduce mnist --seeds 0,1,2 --jobs 2",
        {
            "grid": _one_of(
                "whose settings; ablations run on the bundled digits; reasons (on the full MNIST) and cifar10-reasons "
                "are changes of a row that may explain its distance from the paper's, and controls are AALP's halves "
                "without guidance",
                (
                    "mnist",
                    "svhn",
                    "svhn-part",
                    "cifar10",
                    "mnist-sample",
                    "ablations",
                    "reasons",
                    "cifar10-reasons",
                    "controls",
                ),
            ),
            "--methods": _listed(
                "names, with commas between them (default: Table 2's; of ablations, reasons and controls all of them)"
            ),
            "--seeds": _listed("numbers, with commas between them (default: 0; of ablations 0,1,2)", int),
            "--recipe": _text("paper (as section 4.1 gives it) or fast (ours; the default)"),
            "--out": _path("the records go to OUT/GRID", "results"),
            "--jobs": _number("runs at a time on this machine (default: one a core, or one on a GPU)"),
            "--minutes": _level(
                "stop every run in time at a checkpoint; if work is left the exit status is 75, and the same command "
                "goes on, on another machine too that has a copy of OUT"
            ),
            "--scheduler": _text("of a Dask scheduler; its workers must see the folder --out", metavar="ADDRESS"),
            "--folder": _path("take the images from here: train/CLASS/*, test/CLASS/*"),
            "--root": _ROOT,
            "--epochs": _number("a reduced protocol: fewer epochs; the records say so"),
            "--test-images": _number("attack only that many test images (default: all)"),
            "--quick": _flag("one epoch and 100 test images: shows that it runs"),
            "--observe": _flag(
                "look at every network after every epoch, for figures 4, 9, 10 and 12; a fifth more time"
            ),
            "--dry-run": _flag("say what is to do, and do nothing"),
        }
        | _DEVICE,
    ),
    "measure": Command(
        "measure Table 1, the figures and stronger attacks on the models that aalp reproduce has trained",
        "aalp measure mnist",
        {
            "grid": _text("the folder in --out that aalp reproduce wrote: mnist, svhn, cifar10, ..."),
            "--out": _path("the folder of aalp reproduce", "results"),
            "--kinds": _listed(
                "with commas between: samples (Table 1, the figures), diagnosis, strong, attacks (Table 2's, set "
                "otherwise) (default: all)"
            ),
            "--methods": _listed("only models of these methods, names with commas between (default: all)"),
            "--images": _number("test images for diagnosis, strong, attacks", 1000),
            "--seeds": _listed("only models trained with these, numbers with commas between (default: all)", int),
        }
        | ATTACKED
        | _source()
        | MACHINE,
    ),
    "results": Command(
        "list records of runs, or show the paper's tables with ours beside them",
        "aalp results results --table 2 --data mnist",
        {
            "folder": _path("where the records are", "results", nargs="?", metavar="FOLDER"),
            "--table": _one_of("the paper's table of that number", (1, 2, 3, 4), type=int),
            "--data": _text("only that data set"),
            "--method": _text(f"only that method: {METHODS}"),
            "--seed": _number("only runs that were trained with that seed"),
            "--recipe": _text("only that recipe: paper or fast"),
            "--which": RUN["--which"],
            "--form": _one_of(
                "what it is printed as (default: columns that fit a terminal, or else markdown)", ("markdown", "csv")
            ),
            "--write": _flag("remake tables and figures in FOLDER and the RESULTS.md beside it"),
        },
    ),
    "data": Command(
        "fetch a data set if need be, and show what is in it",
        "aalp data --data mnist",
        _source("mnist-sample"),
    ),
    "bench": Command(
        "time this library beside its peers and the limit (needs the extra [bench])",
        "aalp bench --out bench",
        {
            "--out": _path("folder for the record, the table and the figure", "bench"),
            "--device": _text("only what this device trains and attacks, some minutes; put into the record in OUT"),
            "--quick": _flag("few steps, one round: shows that it runs, no more"),
            "--threads": MACHINE["--threads"],
        },
    ),
    "info": Command("show versions, device, and the names that are known", "aalp info", {}),
}


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults in every line, examples as they were written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; `command` is None where none is given."""
    top = argparse.ArgumentParser(
        prog="aalp",
        description="Train and attack classifiers with the methods of Adaptive Adversarial Logits Pairing.",
        epilog="start with:\n  aalp demo",
        formatter_class=_Help,
    )
    top.add_argument("--version", action="version", version=f"aalp_lib {aalp_lib.__version__}")
    several = top.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, command in COMMANDS.items():
        one = several.add_parser(
            name,
            help=command.what,
            description=command.what[0].upper() + command.what[1:] + ".",
            epilog=f"example:\n  {command.example}",
            formatter_class=_Help,
        )
        for option, how in command.options.items():
            one.add_argument(option, **how)
    return top
