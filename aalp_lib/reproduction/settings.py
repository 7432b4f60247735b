"""What is trained on each data set, and how: the paper's settings, and ours."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from aalp_lib import _checks, models, seeds
from aalp_lib._checks import InputError
from aalp_lib.attacks import PGD, Attack
from aalp_lib.data import Dataset
from aalp_lib.evaluation import BALLS, Suite, paper_name, suite_in_ball, table2_suite
from aalp_lib.models import Classifier
from aalp_lib.reproduction import paper
from aalp_lib.train import Recipe


@dataclass(frozen=True)
class Setting:
    """Network, training attack and recipe for a data set."""

    model: dict[str, Any]
    attack: Attack
    recipe: Recipe

    def changed(self, **changes: dict[str, Any]) -> "Setting":
        """The setting with other values in some of its parts, `changed(attack={"steps": 10})` say."""
        model = self.model | changes.get("model", {})
        attack = dataclasses.replace(self.attack, **changes.get("attack", {}))
        return Setting(model, attack, dataclasses.replace(self.recipe, **changes.get("recipe", {})))


_NORMALISATION = {"svhn": {"mean": (0.4377, 0.4438, 0.4728), "std": (0.1980, 0.2010, 0.1970)}}


def _papers(data: str, epochs: int, batch_size: int, **more: Any) -> Setting:
    """What section 4.1 gives; batch size, epochs and ramp, which it leaves out, are ours."""
    said = paper.SETTINGS[data]
    model = {"name": said.model} | _NORMALISATION.get(data, {})
    return Setting(model, PGD(said.eps, said.step, said.steps), Recipe(epochs, batch_size, said.lr, "constant", **more))


def _fast(data: str, step: float, steps: int, epochs: int, batch_size: int, **more: Any) -> Setting:
    """Ours: fewer and longer attack steps, one-cycle learning rate."""
    usual = _papers(data, epochs, batch_size)
    return Setting(usual.model, PGD(usual.attack.eps, step, steps), Recipe(epochs, batch_size, 2e-3, **more))


_HALF: dict[str, Any] = {"precision": "bfloat16"}
_NARROW = {"width": 24}
_CROPPED: dict[str, Any] = {"crop": 4, "flip": True}
SETTINGS: dict[str, dict[str, Setting]] = {
    "mnist-sample": {"paper": _papers("mnist", 100, 50), "fast": _fast("mnist", 0.1, 5, 16, 64)},
    "mnist": {"paper": _papers("mnist", 20, 50), "fast": _fast("mnist", 0.1, 5, 16, 128, **_HALF)},
    "svhn": {"paper": _papers("svhn", 30, 128), "fast": _fast("svhn", 5 / 255, 5, 20, 256, crop=4, **_HALF)},
    # of SVHN a part with a quarter of the images, on processors: a narrower network, so that a run takes about an hour
    "svhn-part": {
        "paper": _papers("svhn", 30, 128).changed(model=_NARROW),
        "fast": _fast("svhn", 5 / 255, 5, 20, 128, crop=4, **_HALF).changed(model=_NARROW),
    },
    "cifar10": {
        "paper": _papers("cifar10", 100, 128, **_CROPPED),
        "fast": _fast("cifar10", 4 / 255, 4, 30, 128, **_CROPPED, **_HALF),
    },
}
"""Data set -> "paper" or "fast" -> `Setting`."""


def setting_for(dataset: Dataset, recipe: str = "fast", model: str | None = None) -> Setting:
    """The setting for a data set; for a folder of images, CIFAR-10's with ResNet9, or LeNet where images are grey.

    The recipe is "paper" or "fast"; another network that is named is fitted to the images' shape and the number of
    classes. InputError if either is unknown.
    """
    name = dataset.name.removesuffix("-jpeg")
    source = SETTINGS.get(name, SETTINGS["cifar10"])
    setting = source[_checks.known("recipe", recipe, source)]
    if name in SETTINGS and model in (None, setting.model["name"]):
        return setting
    return dataclasses.replace(setting, model=_fitted(dataset, model))


def _fitted(dataset: Dataset, name: str | None) -> dict[str, Any]:
    """A network's config for the images' shape, mean and spread, and the number of classes."""
    channels, height, width = dataset.train.images.shape[1:]
    name = name or ("lenet" if channels == 1 else "resnet9")
    if ":" not in name:  # a library's
        _checks.known("model", name, models.MODELS, "Or name one of a library's, torchvision:resnet18 say.")
    config: dict[str, Any] = {"name": name, "in_channels": channels, "classes": len(dataset.classes)}
    if name == "lenet":
        if height != width:
            raise InputError(f"lenet takes square images, got {height}×{width}; pass an image size or another model")
        config["image_size"] = height
    step = max(1, len(dataset.train) // 1000)  # a folder's images stand class by class
    pixels = dataset.train.images[::step].double() / 255
    config["mean"] = tuple(round(v, 4) for v in pixels.mean((0, 2, 3)).tolist())
    config["std"] = tuple(round(max(v, 0.01), 4) for v in pixels.std((0, 2, 3)).tolist())
    return config


def new_model(setting: Setting, seed: int) -> Classifier:
    """The setting's network with weights drawn from `seed`; torch's global generators are left as they were."""
    with seeds.restored():
        torch.manual_seed(seed)
        return models.build(setting.model)


def tier(data: str) -> str:
    """Which tier a number measured on a data set belongs to."""
    return "quick" if data == "mnist-sample" else "full"


def suite_for(name: str, attack: Attack | None) -> Suite:
    """Table 2's attacks for a data set of the paper; for any other, in the ball of the training attack."""
    if paper_name(name) in BALLS:
        return table2_suite(name)
    eps = attack.eps if attack else 8 / 255
    return suite_in_ball(eps, eps / 4)
