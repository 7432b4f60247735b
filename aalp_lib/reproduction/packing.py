"""Weights of runs in half precision: packed for `zoo`, kept beside records, and told from those of other networks."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from aalp_lib import _checks, checkpoints
from aalp_lib._checks import InputError
from aalp_lib.checkpoints import Checkpoint, Description
from aalp_lib.models import Classifier
from aalp_lib.train import State
from aalp_lib.zoo import INDEX, Entry, index, stays_inside, weights


def packaged(name: str, which: str = "last", folder: Path | None = None) -> Path | None:
    """Where the package, or a folder that `pack` has written, keeps the weights of a network; None if it does not."""
    entry = index(folder).get(name, {}).get(which)
    return (folder or weights()) / entry["file"] if entry else None


def pack(run: str | Path, name: str, folder: str | Path) -> dict[str, Entry]:
    """Put both models of a run into a folder in half precision and enter them in its index; returns the entries.

    Where the best epoch is the last one, both names stand for one file.

    Parameters
    ----------
    run : path
        The folder that `fit` wrote to.
    name : str
        What `pretrained` will call it.
    folder : path

    Raises
    ------
    FileNotFoundError, InputError
        A checkpoint is missing, damaged, or too large for half precision; a name that leads out of the folder.
    """
    run, folder = _checks.path(run), _checks.path(folder)
    if not stays_inside(name):
        raise InputError(f"a network's name is a path inside the folder of weights, got '{name}'")
    found: dict[str, Entry] = {}
    for which, file in (("last", checkpoints.LAST), ("best", checkpoints.BEST)):
        checkpoint = checkpoints.read(run / file)
        epoch = len(checkpoint.described_as(State).history)
        if found and found["last"]["epoch"] == epoch:
            found[which] = found["last"]
            continue
        path = _store(checkpoint, folder / f"{name}-{which}.safetensors")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[which] = Entry(file=str(path.relative_to(folder)), sha256=digest, epoch=epoch)
    checkpoints.write_json(folder / INDEX, dict(sorted((index(folder) | {name: found}).items())))
    return found


def keep_beside_records(run: str | Path) -> Path:
    """Put the last model of a grid's run, `results/mnist/runs/NAME` say, in half precision where `beside_records` says.

    From there `aalp measure` takes it where the run is not at hand. FileNotFoundError or InputError if the run has no
    checkpoint, or a damaged one.
    """
    run = _checks.path(run)
    return _store(checkpoints.read(run / checkpoints.LAST), beside_records(run))


def beside_records(run: Path) -> Path:
    """Where the last model of a run stays beside the records: `results/mnist/weights/NAME.safetensors`."""
    return run.parent.parent / "weights" / f"{run.name}.safetensors"


def fingerprint(of: Path | Classifier) -> str:
    """What tells a network from others: the same for it, for its checkpoint and for its weights in half precision.

    The first 16 hexadecimal digits of the SHA-256 of its weights in half precision.
    """
    weights = checkpoints.read(of).part("model") if isinstance(of, Path) else of.state_dict()
    halves = (value.cpu().contiguous().numpy().tobytes() for _, value in sorted(_halves(weights).items()))
    return hashlib.sha256(b"".join(halves)).hexdigest()[:16]


def _halves(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}


def _store(checkpoint: Checkpoint, path: Path) -> Path:
    """Write the weights in half precision, with what makes the network again."""
    tensors = {f"model.{key}": value for key, value in _halves(checkpoint.part("model")).items()}
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{checkpoint.path} cannot be kept in half precision: {name} would not be finite")
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write(path, Checkpoint(tensors, {"model": checkpoint.described_as(Description).model}))
    return path
