"""Train small LeNets against attacks of full radius, over rate x width x ramp, and keep the losses for chapter 2.

    python scripts/make_cold_start.py

Madry's method on the 3,600 training digits of `mnist-sample`, one seed, a constant rate. About a quarter of an hour of
one CPU core; a run that the record has is not made again. The package reads it with `book.chapter.cold_starts`.
"""

import itertools
import json
import platform
from pathlib import Path

import torch

import aalp_lib as aalp

TARGET = Path(__file__).resolve().parents[1] / "aalp_lib" / "assets" / "cold-start.json"
RATES = (2e-4, 5e-4, 1e-3, 2e-3)
WIDTHS = ((4, 8, 64), (16, 32, 256))  # a quarter of the default LeNet, and all of it
RAMPS = (0.0, 0.6, 0.3)
ATTACK = aalp.PGD(eps=0.3, step=0.1, steps=5)
SEED, EPOCHS, BATCH = 0, 16, 64


def run(data: aalp.Dataset, rate: float, width: tuple[int, int, int], ramp: float) -> dict[str, object]:
    """One training: its settings and the mean loss on attacked digits of each epoch."""
    recipe = aalp.Recipe(epochs=EPOCHS, batch_size=BATCH, lr=rate, schedule="constant", ramp=ramp)
    torch.manual_seed(SEED)
    model = aalp.models.lenet(width)
    history = aalp.fit(model, data, "adv", ATTACK, seed=SEED, recipe=recipe, val=data.val[:200])
    losses = [round(epoch.loss, 4) for epoch in history.epochs]
    return {"rate": rate, "width": width, "ramp": ramp, "loss": losses, "robust": history.epochs[-1].robust}


def main() -> None:
    """Run the grid and write the record, after each run."""
    data = aalp.load("mnist-sample", device="cpu")
    made = {"aalp_lib": aalp.__version__, "torch": torch.__version__.partition("+")[0], "device": platform.machine()}
    settings = {"data": "mnist-sample", "digits": len(data.train), "method": "adv", "seed": SEED, "epochs": EPOCHS,
                "attack": ATTACK.described(), "batch_size": BATCH, "schedule": "constant"}  # fmt: skip
    runs = json.loads(TARGET.read_text())["runs"] if TARGET.exists() else []
    for width, ramp, rate in itertools.product(WIDTHS, RAMPS, RATES):
        if not any((of["rate"], tuple(of["width"]), of["ramp"]) == (rate, width, ramp) for of in runs):
            runs.append(run(data, rate, width, ramp))
            lines = ",\n".join(json.dumps(one) for one in runs)
            head = f'{{"made": {json.dumps(made)},\n"settings": {json.dumps(settings)}'
            TARGET.write_text(f'{head},\n"runs": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
