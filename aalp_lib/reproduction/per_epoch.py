"""One training looked at after every epoch: the paper's figures of how losses, features and maps change."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aalp_lib import _checks, checkpoints, losses
from aalp_lib._checks import InputError
from aalp_lib.attacks import Attack
from aalp_lib.checkpoints import LAST, Checkpoint
from aalp_lib.data import Dataset, Split
from aalp_lib.methods import Method, method
from aalp_lib.models import Classifier
from aalp_lib.progress import Tell
from aalp_lib.reproduction import analyses
from aalp_lib.reproduction.analyses import EQUATIONS, Values, attacked, maps, mean, pack, rounded
from aalp_lib.reproduction.settings import Setting, new_model
from aalp_lib.train import History, State, fit

BINS = 30  # of the histograms of Figure 9


def over_training(
    dataset: Dataset,
    name: str | Method,
    setting: Setting,
    run: Path,
    *,
    seed: int = 0,
    images: int = 2000,
    attack: Attack | None = None,
    shown: Split | None = None,
    progress: Tell | None = None,
) -> Values:
    """Figures 4, 9, 10 and 12: one training, looked at after every epoch on the same test images.

    Looking changes nothing: the weights are bit for bit those of `fit` alone. The attack always has its full radius,
    also while the one of training is still ramped up. The two sets are those of the last epoch: that they end apart is
    their definition; how they get there is what the figure shows.

    Parameters
    ----------
    dataset : Dataset
    name : str or Method
    setting : Setting
    run : Path
        Folder for the checkpoints, as of `fit`, and `observed/`, what was seen after each epoch. An interrupted run
        goes on where it stopped.
    seed : int
    images : int
        Number of test images, drawn by seed 0 whatever the run's own: MNIST's halves are not equally hard.
    attack : Attack, optional
        By default the paper's.
    shown : Split, optional
        Images of which activation maps are kept, four say.
    progress : callable, optional

    Returns
    -------
    dict
        "images", "consistent", "inconsistent": counts. "epochs": for each "epoch", "gradients" (of single images taken
        in training so far, those of the attack included), "eps" of training, "clean", "robust" (fractions),
        "loss_clean", "loss_adversarial" (nats), "alp" (mean Eq. 1 of "consistent", "inconsistent" and "all") and
        "spread" (`half_share` and `gini` of Eq. 5 and 7, on clean and on adversarial images). "contributions": Eq. 5
        and 7 on adversarial images, "edges" of the bins and "counts" for each epoch. "activation": "labels",
        "pictures" and "maps" (Eq. 6, for each epoch) of `shown` under the attack, packed, or None.

    Raises
    ------
    InputError
        If `run` was trained without being looked at, or with other settings; and whatever `fit` raises.
    """
    chosen = method(name)
    watch = _Watch(dataset, setting, run, images, attack or analyses.attack_for(dataset, setting.attack), shown)
    watch.catch_up()
    model = new_model(setting, seed).to(dataset.test.images.device)

    def told(done: int, total: int, text: str) -> None:
        if done % watch.per_epoch == 0:
            watch.look(model, done // watch.per_epoch)
        if progress:
            progress(done, total, text)

    history = fit(
        model, dataset, chosen, setting.attack, seed=seed, recipe=setting.recipe, out=run, resume=True, progress=told
    )
    return _summary(watch.all(), history, chosen, setting, len(dataset.train), shown)


class _Watch:
    """Looks at a network after each epoch and keeps what it sees, so that a run that is resumed has all of it."""

    def __init__(
        self, dataset: Dataset, setting: Setting, run: Path, images: int, attack: Attack, shown: Split | None
    ) -> None:
        _checks.count("the number of images", images)
        order = torch.randperm(len(dataset.test), generator=torch.Generator().manual_seed(0))
        self.split = dataset.test[order[:images].sort().values.to(dataset.test.labels.device)]
        self.attack, self.shown, self.run = attack, shown, run
        self.per_epoch = math.ceil(len(dataset.train) / setting.recipe.batch_size)
        self.epochs = setting.recipe.epochs

    def file(self, epoch: int) -> Path:
        return self.run / "observed" / f"epoch-{epoch:04d}.safetensors"

    def catch_up(self) -> None:
        """Look at an epoch whose end was saved, but after which the process was killed before it could be looked at."""
        if not (self.run / LAST).is_file():
            return
        epoch, inside = divmod(checkpoints.read(self.run / LAST).described_as(State).done, self.per_epoch)
        self._require(range(1, epoch + (inside > 0)))
        if not inside and epoch and not self.file(epoch).exists():
            self.look(checkpoints.load_model(self.run).to(self.split.images.device), epoch)

    def _require(self, epochs: range) -> None:
        missing = [epoch for epoch in epochs if not self.file(epoch).exists()]
        if missing:
            raise InputError(f"{self.run} was not looked at after epoch {missing[0]}; name another folder")

    def look(self, model: Classifier, epoch: int) -> None:
        found = attacked(model, self.split, self.attack)
        z, z_adv = analyses.logits(model, found.x), analyses.logits(model, found.x_adv)
        seen = {
            "alp": losses.alp(z, z_adv),
            "loss_clean": losses.cross_entropy(z, found.y),
            "loss_adversarial": losses.cross_entropy(z_adv, found.y),
            "clean": z.argmax(1) == found.y,
            "robust": z_adv.argmax(1) == found.y,
        }
        seen |= {f"{images}.{name}": v for (images, name), v in analyses.contribution_vectors(model, found).items()}
        if self.shown is not None:
            shown = attacked(model, self.shown, self.attack)
            seen |= {"pictures": shown.x_adv, "maps": analyses.over_largest(maps(model, shown))}
        self.file(epoch).parent.mkdir(parents=True, exist_ok=True)
        checkpoints.write(self.file(epoch), Checkpoint(seen, self.config()))

    def config(self) -> dict[str, Any]:
        """What must be the same for every epoch."""
        return {"attack": self.attack.described(), "images": len(self.split)}

    def all(self) -> list[dict[str, Tensor]]:
        """What was seen, an epoch each."""
        self._require(range(1, self.epochs + 1))
        found = [checkpoints.read(self.file(epoch)) for epoch in range(1, self.epochs + 1)]
        if any(seen.meta != self.config() for seen in found):
            raise InputError(f"{self.run} was looked at with another attack or other images; name another folder")
        return [seen.tensors for seen in found]


def _summary(
    seen: list[dict[str, Tensor]], history: History, chosen: Method, setting: Setting, train: int, shown: Split | None
) -> Values:
    last = seen[-1]
    rows = {"consistent": last["clean"] & last["robust"], "inconsistent": last["clean"] & ~last["robust"]}
    lines, an_image = [], chosen.gradient_count(setting.attack.steps * setting.attack.restarts)
    for line, now in zip(history.epochs, seen, strict=True):
        lines.append(
            {"epoch": line.epoch, "gradients": line.epoch * train * an_image}
            | {"eps": line.eps}
            | {name: mean(now[name]) for name in ("clean", "robust", "loss_clean", "loss_adversarial")}
            | {"alp": {name: mean(now["alp"][which]) for name, which in rows.items()} | {"all": mean(now["alp"])}}
            | {"spread": _spreads(now)}
        )
    activation = None
    if shown is not None:
        activation = {
            "labels": shown.labels.tolist(),
            "pictures": pack(last["pictures"]),
            "maps": [pack(now["maps"]) for now in seen],
        }
    return {
        "images": len(last["clean"]),
        **{name: int(which.sum()) for name, which in rows.items()},
        "epochs": lines,
        "contributions": {name: _histograms([s[f"adversarial.{name}"] for s in seen]) for name in EQUATIONS},
        "activation": activation,
    }


def _spreads(seen: dict[str, Tensor]) -> Values:
    return {
        images: {
            name: {key: analyses.feature_shares(seen[f"{images}.{name}"])[key] for key in ("half_share", "gini")}
            for name in EQUATIONS
        }
        for images in ("clean", "adversarial")
    }


def _histograms(vectors: list[Tensor]) -> Values:
    """Counts of features in bins that all epochs share, from 0 to the largest value of all."""
    top = max(float(v.max()) for v in vectors) or 1.0
    edges = np.linspace(0, top, BINS + 1)
    counts = [np.histogram(v.double().numpy().clip(0, top), edges)[0].tolist() for v in vectors]
    return {"edges": [rounded(e) for e in edges], "counts": counts}
