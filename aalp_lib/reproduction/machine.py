"""Where something was computed: device, processor, threads, versions and code, as records keep them."""

import functools
import hashlib
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import aalp_lib
from aalp_lib.engine.precision import tf32


def environment(device: torch.device) -> dict[str, Any]:
    """Device, processor, threads, versions and commit, as a record keeps them.

    Asked for where a run begins: "commit" and "code" (the first 12 hexadecimal digits of the SHA-256 of this package's
    source files) are what they were when a process asked first, since the checkout may go on while it runs.
    """
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor(),
        # whether float32 convolutions round what they multiply to 10 bits, which is torch's default on a GPU
        **({"tf32": tf32()} if device.type == "cuda" else {}),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "torchvision": version("torchvision"),
        "aalp_lib": aalp_lib.__version__,
        "commit": _commit(),
        "code": _code(),
        "system": platform.system(),
    }


def alike(environment: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for the same bits; of commit and code, the code says more."""
    return {key: value for key, value in environment.items() if key != "commit"}


@functools.cache
def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def _code() -> str:
    """What tells this package's source from any other, also where a commit does not: of a changed or installed one."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that this package is run from, "+" for local changes; None for an installed one."""
    home = Path(__file__).resolve().parents[2]
    if not (home / ".git").exists():
        return None
    try:
        run = functools.partial(subprocess.run, cwd=home, capture_output=True, text=True, timeout=10)
        commit = run(["git", "rev-parse", "--short=12", "HEAD"])
        changes = run(["git", "status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.SubprocessError):
        return None
    return (commit.stdout.strip() + ("+" if changes.stdout.strip() else "")) if commit.returncode == 0 else None
