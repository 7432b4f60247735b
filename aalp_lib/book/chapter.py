"""What the book's chapters share: the tier and its data, the trained networks, a terminal."""

import os
import shlex
import subprocess
import sys
import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import matplotlib.pyplot as plt
import msgspec
import torch

from aalp_lib import _checks, data, seeds
from aalp_lib._checks import InputError
from aalp_lib.data import Dataset
from aalp_lib.models import Classifier
from aalp_lib.zoo import pretrained

TIERS = {"quick": "mnist-sample", "full": "mnist"}


@dataclass(frozen=True)
class Stage:
    """Where a chapter runs.

    Attributes
    ----------
    tier : "quick" or "full"
    data : Dataset
        `mnist-sample`, or the whole of MNIST.
    device : torch.device
    """

    tier: str
    data: Dataset
    device: torch.device

    @property
    def note(self) -> str:
        """What to write beside a result: tier, digits, where."""
        return f"{self.tier} tier, {len(self.data.test):,} test digits of {self.data.name}, {self.device.type}"

    def digits(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first `count` test images (count, 1, 28, 28) in [0, 1], and their labels."""
        return next(self.data.test.batches(count))

    def network(self, name: str) -> Classifier:
        """`pretrained("mnist/" + name)` on this device."""
        return pretrained(f"mnist/{name}").to(self.device)


def tier() -> str:
    """The tier that the environment variable `AALP_TIER` asks for: "quick" by default, or "full".

    Raises
    ------
    InputError
        If it is neither.
    """
    return _checks.known("AALP_TIER", os.environ.get("AALP_TIER", "quick"), TIERS)


def begin(wanted: str | None = None) -> Stage:
    """Load the tier's data, fix torch's seed and the look of figures, and print where the chapter runs.

    Parameters
    ----------
    wanted : "quick" or "full", optional
        By default what `tier` says.

    Raises
    ------
    InputError
        If it is neither.
    """
    found = tier() if wanted is None else _checks.known("tier", wanted, TIERS)
    device = _checks.device("auto" if found == "full" else "cpu")
    torch.manual_seed(seeds.derive(0, "book"))
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # about torch's own parts
    plt.rcParams.update({"axes.grid": True, "grid.color": "0.92", "axes.axisbelow": True, "font.size": 10})
    plt.rcParams.update({"axes.titlesize": 11, "figure.constrained_layout.use": True})
    stage = Stage(found, data.load(TIERS[found], device=device), device)
    print(f"{stage.note} · torch {torch.__version__.partition('+')[0]}, Python {sys.version.split()[0]}")
    return stage


@dataclass(frozen=True)
class Start:
    """One training of a small LeNet against attacks of radius 0.3: Madry's method on the bundled digits, one seed.

    Attributes
    ----------
    rate : float
        Of Adam, constant.
    width : tuple of int
        Channels of the two convolutions, number of features.
    ramp : float
        Fraction of the run over which the radius grew.
    loss : list of float
        Mean loss on attacked digits of each epoch, in nats.
    robust : float
        Share of 200 validation digits right under PGD-10, at the end.
    """

    rate: float
    width: tuple[int, int, int]
    ramp: float
    loss: list[float]
    robust: float


def cold_starts() -> list[Start]:
    """The trainings of chapter 2's map; `scripts/make_cold_start.py` made them."""
    kept = (resources.files("aalp_lib") / "assets" / "cold-start.json").read_bytes()
    return [msgspec.convert(run, Start) for run in msgspec.json.decode(kept)["runs"]]


def shell(command: str, folder: str | Path) -> None:
    """Run `aalp ...` in a folder as a terminal would, with this Python, and print the command and what it says.

    Raises
    ------
    InputError
        If the command is not one of `aalp`, or fails; the message is what it said.
    """
    program, *arguments = shlex.split(command)
    _checks.known("command", program, ("aalp",))
    plain = {key: value for key, value in os.environ.items() if key != "FORCE_COLOR"}  # a kernel sets it
    done = subprocess.run(
        [sys.executable, "-m", "aalp_lib", *arguments],
        cwd=folder,
        env=plain | {"COLUMNS": "92", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
    )
    said = "\n".join(line.rstrip() for line in (done.stdout + done.stderr).strip().splitlines())
    if done.returncode:
        raise InputError(said)
    print(f"$ {command}\n{said}")
