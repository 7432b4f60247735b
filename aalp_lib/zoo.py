"""Trained networks that come with the package."""

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from aalp_lib import _checks, checkpoints
from aalp_lib._checks import InputError
from aalp_lib.checkpoints import Checkpoint
from aalp_lib.models import Classifier

INDEX = "index.json"


def weights() -> Path:
    """The folder of the package that holds the weights and their index."""
    return Path(str(resources.files("aalp_lib") / "weights"))


def index(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """What there is: for each name such as "mnist/aalp", for "last" and "best", the file, its SHA-256 and the epoch."""
    path = (folder or weights()) / INDEX
    return checkpoints.read_json(path) if path.exists() else {}


def packaged(name: str, which: str = "last", folder: Path | None = None) -> Path | None:
    """Where the package, or a folder that `pack` has written, keeps the weights of a network; None if it does not."""
    entry = index(folder).get(name, {}).get(which)
    return (folder or weights()) / entry["file"] if entry else None


def pretrained(name: str, which: str = "last", *, folder: str | Path | None = None) -> Classifier:
    """Load a trained network that comes with the package, in evaluation mode, on the CPU.

    The weights are stored in half precision and used in float32. Those of "mnist/..." are trained on the full MNIST
    less its first 6,000 training images, the validation split, which all digits of `mnist-sample` belong to: the sample
    may be shown to them.

    Parameters
    ----------
    name : str
        Data set and method, "mnist/aalp" say; see `aalp_lib.zoo.index`.
    which : "last" or "best"
        After the last epoch, or the best on the validation split. The package has no room for the "best" of
        "mnist/aalp_gd" and "mnist/aalp_sw"; they lie in the folder `weights` of the repository.
    folder : path, optional
        Another folder that `pack` has written: `results/cifar10/weights` of the repository for "cifar10-jpeg/aalp".

    Raises
    ------
    InputError
        If the name is unknown, or the file is not the one that the index describes.

    Examples
    --------
    >>> import aalp_lib as aalp
    >>> digits = aalp.load("mnist-sample").test
    >>> x, y = next(digits.batches(100))
    >>> bool((aalp.pretrained("mnist/aalp")(x).argmax(1) == y).float().mean() > 0.9)
    True
    """
    home = Path(folder) if folder is not None else weights()
    known = index(home)
    entry = known[_checks.known("pretrained network", name, known)]
    if which == "best" and which not in entry and folder is None:
        raise InputError(f"the package has no room for the best of {name}; the repository has it, folder='weights'")
    entry = entry[_checks.known(f"checkpoint of {name}", which, entry)]
    path = home / entry["file"]
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
        raise InputError(f"{path} is missing or is not the file that {INDEX} describes; install the package again")
    return checkpoints.load_model(path)


def pack(run: str | Path, name: str, folder: str | Path) -> dict[str, Any]:
    """Put both models of a run into a folder in half precision and enter them in its index; returns the entry.

    Where the best epoch is the last one, both names stand for one file.

    Parameters
    ----------
    run : path
        The folder that `fit` wrote to.
    name : str
        What `pretrained` will call it.
    folder : path
    """
    run, folder = Path(run), Path(folder)
    found = {
        which: checkpoints.read(run / file) for which, file in (("last", checkpoints.LAST), ("best", checkpoints.BEST))
    }
    entry = {which: _store(found[which], f"{name}-{which}", folder) for which in found}
    if entry["best"]["epoch"] == entry["last"]["epoch"]:
        (folder / entry["best"]["file"]).unlink()
        entry["best"] = entry["last"]
    path = folder / INDEX
    checkpoints.write_atomically(
        path, (json.dumps(dict(sorted((index(folder) | {name: entry}).items())), indent=1) + "\n").encode()
    )
    return entry


def keep(run: str | Path) -> Path:
    """Put the last model of a grid's run, in half precision, where it stays beside the records.

    Parameters
    ----------
    run : path
        The run's folder, `results/mnist/runs/NAME` say.

    Returns
    -------
    Path
        `results/mnist/weights/NAME.safetensors`, from which `aalp measure` takes it where the run is not at hand.

    Raises
    ------
    FileNotFoundError, InputError
        If the run has no checkpoint, or a damaged one.
    """
    path = kept(Path(run))
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write(path, _halved(checkpoints.read(Path(run) / checkpoints.LAST)))
    return path


def kept(run: Path) -> Path:
    """Where `keep` puts the last model of a run."""
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


def _halved(checkpoint: Checkpoint) -> Checkpoint:
    tensors = {f"model.{key}": value for key, value in _halves(checkpoint.part("model")).items()}
    return Checkpoint(tensors, {"model": checkpoint.meta["model"]})


def _store(checkpoint: Checkpoint, name: str, folder: Path) -> dict[str, Any]:
    path = folder / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write(path, _halved(checkpoint))
    return {
        "file": f"{name}.safetensors",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "epoch": len(checkpoint.meta["history"]["epochs"]),
    }
