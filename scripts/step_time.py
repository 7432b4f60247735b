"""Time a training step of AALP on noise, as docs/bench/one-card.json has it: DATA RECIPE PRECISION TF32 GRAPHS SECONDS.

python scripts/step_time.py cifar10 fast bfloat16 1 1 10     started six times at once, for six runs on one card
"""

import contextlib
import dataclasses
import sys
import time

import torch

from aalp_lib import models
from aalp_lib.data import Dataset, Split
from aalp_lib.engine import graphs
from aalp_lib.reproduction.settings import SETTINGS
from aalp_lib.train import fit

BATCHES = 2000  # of an epoch, more than are reached


def main(data: str, recipe: str, precision: str, tf32: str, on: str, seconds: str) -> None:
    """Print the mean over the second half of the steps taken in that time."""
    torch.backends.cudnn.allow_tf32 = tf32 == "1"
    torch.set_num_threads(2)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    setting = SETTINGS[data][recipe]
    shape = (1, 28, 28) if data == "mnist" else (3, 32, 32)
    count = BATCHES * setting.recipe.batch_size
    pixels = torch.randint(256, (count, *shape), dtype=torch.uint8, device=device)
    split = Split(pixels, torch.randint(10, (count,), device=device))
    noise = Dataset("noise", tuple("0123456789"), split, split[:32], split[:32])
    changed = dataclasses.replace(setting.recipe, epochs=100, lr=1e-4, precision=precision)  # type: ignore[arg-type]
    times: list[float] = []

    def tell(done: int, total: int, text: str) -> None:
        times.append(time.perf_counter())
        if times[-1] - times[0] > float(seconds) and len(times) > 3:
            raise KeyboardInterrupt

    with graphs.switched(on == "1"), contextlib.suppress(KeyboardInterrupt):
        fit(models.build(setting.model).to(device), noise, "aalp", setting.attack, recipe=changed, progress=tell)
    half = times[len(times) // 2 :]
    print(f"{1000 * (half[-1] - half[0]) / (len(half) - 1):.2f} ms a step, {len(times)} steps")


if __name__ == "__main__":
    main(*sys.argv[1:])
