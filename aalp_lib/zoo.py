"""Trained networks that come with the package, their weights in half precision (`reproduction.packing` makes them)."""

import contextlib
import hashlib
from importlib import resources
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Literal, TypedDict

from msgspec import Meta

from aalp_lib import _checks, checkpoints
from aalp_lib._checks import InputError
from aalp_lib.models import Classifier

INDEX = "index.json"


class Entry(TypedDict):
    """A file of weights in an index: where it lies in the folder, its SHA-256, and how many epochs it was trained."""

    file: str
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    epoch: Annotated[int, Meta(ge=1)]


def weights() -> Path:
    """The folder of the package that holds the weights and their index."""
    return Path(str(resources.files("aalp_lib") / "weights"))


def index(folder: Path | None = None) -> dict[str, dict[str, Entry]]:
    """What there is: for each name such as "mnist/aalp", an entry for "last" and for "best", as far as it is there."""
    path = (folder or weights()) / INDEX
    known: dict[str, dict[str, Entry]] = {}
    if path.exists():
        known = checkpoints.read_json(path, dict[str, dict[Literal["last", "best"], Entry]])
    for name, entries in known.items():
        for which, entry in entries.items():
            if not stays_inside(entry["file"]):
                raise InputError(f"{path} names a file outside its folder: {name}, {which}, is '{entry['file']}'")
    return known


def stays_inside(name: str) -> bool:
    """Whether a relative path, on any system, leads to a place inside the folder from which it starts."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return bool(name.strip()) and not any(path.anchor or ".." in path.parts for path in paths)


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
        Another folder with such an index: `results/cifar10/weights` of the repository for "cifar10-jpeg/aalp".

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
    home = _checks.path(folder) if folder is not None else weights()
    known = index(home)
    entries = known[_checks.known("pretrained network", name, known)]
    if which == "best" and which not in entries and folder is None:
        raise InputError(f"the package has no room for the best of {name}; the repository has it, folder='weights'")
    entry = entries[_checks.known(f"checkpoint of {name}", which, entries)]
    path = home / entry["file"]
    content = b""
    with contextlib.suppress(OSError, ValueError):  # not there, or no name that a file can have
        content = checkpoints.content_of(path)
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise InputError(f"{path} is missing or is not the file that {INDEX} describes; install the package again")
    return checkpoints.load_model(path)
