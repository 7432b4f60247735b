"""Weights and training state on disk: safetensors files that a kill never leaves half written, and JSON beside them."""

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from aalp_lib import _checks, models
from aalp_lib._checks import InputError
from aalp_lib.models import Classifier

T = TypeVar("T")
FORMAT = "aalp_lib checkpoint 1"
LAST, BEST = "last.safetensors", "best.safetensors"


class Description(msgspec.Struct, kw_only=True):
    """What the description of every network's weights says: the arguments of `models.build`, none of a wrapped one.

    `normalisation` is what the function of that name gives; files written before it was kept have none.
    """

    model: dict[str, Any]
    normalisation: dict[str, list[float]] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What one file holds: tensors by name, and a JSON-able description.

    The weights are named `model.*`; a file that training can go on from holds `optimizer.*` as well.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path = Path("this checkpoint")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose name starts with `prefix.`, without that prefix."""
        return {k.removeprefix(prefix + "."): v for k, v in self.tensors.items() if k.startswith(prefix + ".")}

    def described_as(self, kind: type[T]) -> T:
        """The description as what `kind` says; InputError names the file and the field that does not fit."""
        try:
            return msgspec.convert(self.meta, kind)
        except msgspec.ValidationError as error:
            raise InputError(f"{self.path} is no checkpoint of this kind ({error})") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either the old bytes or the new ones, whenever the process is killed."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # a number of a process is unique on a machine alone
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically; tensors that share memory are stored as many times as they are named."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    write_atomically(path, save(tensors, {"format": FORMAT, "meta": json.dumps(checkpoint.meta)}))


def read(path: Path) -> Checkpoint:
    """Read a checkpoint; a missing one raises FileNotFoundError, a damaged or foreign one InputError, naming it."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise InputError(f"{path} is not a readable checkpoint ({error})") from error
    if header.get("format") != FORMAT:
        raise InputError(f"{path} was not written by this version of aalp_lib ('{FORMAT}')")
    return Checkpoint(tensors, json.loads(header["meta"]), path)


def normalisation(model: Classifier) -> dict[str, list[float]]:
    """The mean and std that a network takes from its images, by these names, to six digits."""
    return {name: [float(f"{v:.6g}") for v in getattr(model, name).flatten().tolist()] for name in ("mean", "std")}


def load_weights(model: Classifier, checkpoint: Checkpoint) -> None:
    """Put the weights of a checkpoint into `model`.

    Names, shapes and the normalisation must fit, otherwise InputError naming the file.
    """
    was, now = checkpoint.described_as(Description).normalisation, normalisation(model)
    if was is not None and was != now:
        raise InputError(f"{checkpoint.path} holds a network whose normalisation is {was}, but this one has {now}")
    try:
        model.load_state_dict(checkpoint.part("model"))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{checkpoint.path} holds another network than this one: {reason}") from error


def load_model(path: str | Path, which: str = "last", *, model: Classifier | None = None) -> Classifier:
    """Make the network that a run has trained, with its weights, in evaluation mode.

    Parameters
    ----------
    path : path
        The folder that `fit` wrote to, or a checkpoint file.
    which : "last" or "best"
        In a folder: after the last epoch, or the best on the validation split.
    model : Classifier, optional
        Put the weights into this one instead; needed for a network that was wrapped. Its normalisation must be that of
        the trained one.

    Raises
    ------
    FileNotFoundError, InputError
        Missing, damaged or foreign file; a network that was wrapped and so cannot be made from its description; a
        `model` of other shapes or another normalisation.
    """
    _checks.known("checkpoint", which, ("last", "best"))
    path = _checks.path(path)
    checkpoint = read(path / {"last": LAST, "best": BEST}[which] if path.is_dir() else path)
    config = checkpoint.described_as(Description).model
    if model is None and not config:
        raise InputError(
            f"{checkpoint.path} holds a wrapped network: build it yourself, and pass load_model(..., model=wrap(it))"
        )
    model = model or models.build(config)
    load_weights(model, checkpoint)
    return model.eval()


def read_json(path: Path, kind: Any = dict[str, Any]) -> Any:
    """Read a JSON file as what `kind` says, by default any object.

    InputError names one that is missing or damaged, and the field that does not fit.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object atomically."""
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
