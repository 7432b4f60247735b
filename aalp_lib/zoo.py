"""Trained networks that come with the package, and how weights are packed in half precision."""

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from aalp_lib import _checks, checkpoints
from aalp_lib._checks import InputError
from aalp_lib.checkpoints import Checkpoint, Network
from aalp_lib.models import Classifier
from aalp_lib.train import State

INDEX = "index.json"


class Entry(TypedDict):
    """A file of weights in an index: where it lies in the folder, its SHA-256, and how many epochs it was trained."""

    file: str
    sha256: str
    epoch: int


def weights() -> Path:
    """The folder of the package that holds the weights and their index."""
    return Path(str(resources.files("aalp_lib") / "weights"))


def index(folder: Path | None = None) -> dict[str, dict[str, Entry]]:
    """What there is: for each name such as "mnist/aalp", an entry for "last" and for "best", as far as it is there."""
    path = (folder or weights()) / INDEX
    known: dict[str, dict[str, Entry]] = {}
    return checkpoints.read_json(path, dict[str, dict[str, Entry]]) if path.exists() else known


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
    entries = known[_checks.known("pretrained network", name, known)]
    if which == "best" and which not in entries and folder is None:
        raise InputError(f"the package has no room for the best of {name}; the repository has it, folder='weights'")
    entry = entries[_checks.known(f"checkpoint of {name}", which, entries)]
    path = home / entry["file"]
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
        raise InputError(f"{path} is missing or is not the file that {INDEX} describes; install the package again")
    return checkpoints.load_model(path)


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
    """
    folder = Path(folder)
    found: dict[str, Entry] = {}
    for which, file in (("last", checkpoints.LAST), ("best", checkpoints.BEST)):
        checkpoint = checkpoints.read(Path(run) / file)
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
    return _store(checkpoints.read(Path(run) / checkpoints.LAST), beside_records(Path(run)))


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
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write(path, Checkpoint(tensors, {"model": checkpoint.described_as(Network).model}))
    return path
