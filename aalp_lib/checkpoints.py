"""Weights and training state on disk: safetensors files that a kill never leaves half written, and JSON beside them.

Both carry a checksum of what they hold, and are refused where it does not fit. Files of earlier versions have none.
"""

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

from aalp_lib import _checks, models, seeds
from aalp_lib._checks import InputError
from aalp_lib.models import Classifier

T = TypeVar("T")
FORMAT = "aalp_lib checkpoint 1"
LAST, BEST = "last.safetensors", "best.safetensors"
FILES = {"last": LAST, "best": BEST}
CHECKSUM = "checksum"  # what a file calls the SHA-256 of the rest of it
_DAMAGED = "is damaged, or was changed by hand: its content does not fit its checksum"


class Description(msgspec.Struct, kw_only=True):
    """What the description of every network's weights says: the arguments of `models.build`, none of a wrapped one.

    `normalisation` is what the function of that name gives, `classes` are the names of the classes in the order of
    their labels, where they are known; files written before these were kept have none.
    """

    model: dict[str, Any]
    normalisation: dict[str, list[float]] | None = None
    classes: list[str] | None = None


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
        except ValueError as error:  # msgspec's, or of text that is no Unicode
            raise InputError(f"{self.path} is no checkpoint of this kind ({error})") from error


# --- files -----------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either the old bytes or the new ones, whenever the process is killed.

    Half-written files that killed processes have left in the folder are deleted. An OSError names `path`.
    """
    _clear(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with temporary.open("xb") as file:
            _hold(file)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # there an open file cannot be moved
            os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written ({error.strerror or error})") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _hold(file: IO[bytes]) -> None:
    """Keep `_clear` from a file as long as it is open, where the file system knows locks."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)


def _clear(folder: Path) -> None:
    """Delete half-written files which nobody holds any more; one that was begun this second may not be held yet."""
    for path in folder.glob(".*.????????.partial") if fcntl is not None else ():
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if abs(time.time() - path.stat().st_mtime) > 1:
                path.unlink()


def content_of(path: Path) -> bytes:
    """The bytes of a file; OSError where there is none, or something that may never end, such as a pipe."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no regular file")
    return path.read_bytes()


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically; tensors that share memory are stored as many times as they are named."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    meta = json.dumps(checkpoint.meta)
    write_atomically(path, save(tensors, {"format": FORMAT, "meta": meta, CHECKSUM: _checksum(tensors, meta)}))


def read(path: Path) -> Checkpoint:
    """Read a checkpoint; a missing one raises FileNotFoundError, a damaged or foreign one InputError, naming it."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # copies, for the file may be written over meanwhile
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # what a damaged header raises is not documented
        raise InputError(f"{path} is not a readable checkpoint ({error})") from error
    if header.get("format") != FORMAT or not {"meta"} <= header.keys() <= {"format", "meta", CHECKSUM}:
        raise InputError(f"{path} was not written by this version of aalp_lib ('{FORMAT}')")
    if CHECKSUM in header and header[CHECKSUM] != _checksum(tensors, header["meta"]):
        raise InputError(f"{path} {_DAMAGED}")
    try:
        meta = json.loads(header["meta"])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a readable checkpoint ({error})") from error
    return Checkpoint(tensors, meta, path)


def _checksum(tensors: Mapping[str, Tensor], meta: str) -> str:
    """SHA-256 of names, types, shapes and values of tensors, and of their description."""
    found = hashlib.sha256(meta.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def sealed(content: Mapping[str, Any]) -> bytes:
    """A JSON object, as text, with a checksum of its values in front."""
    values = json.loads(json.dumps(content))  # as they are read: tuples are lists
    return (json.dumps({CHECKSUM: _json_checksum(values)} | values, indent=1) + "\n").encode()


def unsealed(content: bytes) -> dict[str, Any]:
    """The values of what `sealed` has made, or of an object without a checksum; ValueError if they are damaged."""
    try:
        values = msgspec.json.decode(content, type=dict[str, Any])
        checksum = values.pop(CHECKSUM, None)
        fits = checksum is None or checksum == _json_checksum(values)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not fits:
        raise ValueError(f"it {_DAMAGED}")
    return values


def _json_checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_json(path: Path, kind: Any = dict[str, Any]) -> Any:
    """Read a JSON file as what `kind` says, by default any object.

    InputError names one that is missing or damaged, and the field that does not fit.
    """
    try:
        return msgspec.convert(unsealed(content_of(path)), kind)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with a checksum."""
    write_atomically(path, sealed(content))


def check_writable(folder: Path) -> None:
    """Make a folder before the work for it begins; OSError, naming it, unless something can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"room for this, at least")
    except OSError as error:
        raise OSError(f"the output folder {folder} cannot be written ({error.strerror or error})") from error


# --- networks --------------------------------------------------------------------------------------------------------


def normalisation(model: Classifier) -> dict[str, list[float]]:
    """The mean and std that a network takes from its images, by these names, to six digits."""
    return {name: [float(f"{v:.6g}") for v in getattr(model, name).flatten().tolist()] for name in ("mean", "std")}


def load_weights(model: Classifier, checkpoint: Checkpoint) -> None:
    """Put the weights of a checkpoint into `model`.

    Names, shapes, kinds and the normalisation must fit, and weights be finite, otherwise InputError naming the file.
    """
    was, now = checkpoint.described_as(Description).normalisation, normalisation(model)
    if was is not None and was != now:
        raise InputError(f"{checkpoint.path} holds a network whose normalisation is {was}, but this one has {now}")
    _check_values(model, checkpoint)
    try:
        model.load_state_dict(checkpoint.part("model"))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{checkpoint.path} holds another network than this one: {reason}") from error


def infinite_buffers(model: Classifier) -> set[str]:
    """Names of buffers that hold infinity on purpose: a mask of attention, say."""
    return {name for name, value in model.named_buffers() if bool(torch.isinf(value).any())}


def _check_values(model: Classifier, checkpoint: Checkpoint) -> None:
    """InputError unless weights are of the model's kind, and they and Adam's moments finite."""
    own = {f"model.{name}": value for name, value in model.state_dict().items()}
    infinite = {f"model.{name}" for name in infinite_buffers(model)}
    for name, value in checkpoint.tensors.items():
        if name in own and value.is_floating_point() != own[name].is_floating_point():
            raise InputError(f"{checkpoint.path} holds another network than this one: {name} is of {value.dtype}")
        if value.is_floating_point() and name not in infinite and not torch.isfinite(value.float()).all():
            raise InputError(f"{checkpoint.path} is damaged: {name} has values that are not finite")


def _built(checkpoint: Checkpoint, config: dict[str, Any]) -> Classifier:
    """The network that a description names; InputError unless the weights are those of one."""
    if ":" in str(config.get("name")):
        return models.build(config)  # of a library, whose networks may not be made without memory
    try:
        with torch.device("meta"):  # without memory: nobody knows yet how large it would be
            wanted = models.build(config).state_dict()
    except (InputError, RuntimeError) as error:
        raise InputError(f"{checkpoint.path} describes a network that cannot be made ({error})") from error
    found = checkpoint.part("model")
    for name in wanted | found:
        here, there = (tuple(of[name].shape) if name in of else "missing" for of in (found, wanted))
        if here != there:
            raise InputError(
                f"{checkpoint.path} is not of the network that it describes: {name} is {here}, not {there}"
            )
    return models.build(config)


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
    _checks.known("checkpoint", which, FILES)
    path = _checks.path(path)
    checkpoint = read(path / FILES[which] if path.is_dir() else path)
    config = checkpoint.described_as(Description).model
    if model is None and not config:
        raise InputError(
            f"{checkpoint.path} holds a wrapped network: build it yourself, and pass load_model(..., model=wrap(it))"
        )
    with seeds.restored():  # new weights are drawn, and replaced
        model = model or _built(checkpoint, config)
    load_weights(model, checkpoint)
    return model.eval()
