"""The paper's published numbers: its Tables 1 to 4, the settings of its section 4.1, and what others found, as data.

Wu et al., *Adaptive Adversarial Logits Pairing* (2020). Methods, columns and data sets are named as in `METHODS`,
`table2_suite` and `load`. Accuracies are in percent, as printed; this library's own records keep fractions.
"""

from typing import NamedTuple

COLUMNS = ("clean", "fgsm", "pgd10", "pgd20", "pgd40", "pgd100", "cw10", "cw20", "cw40", "cw100")
SAMPLE_COLUMNS = ("mean_clean_confidence", "mean_adversarial_confidence", "classification_loss", "alp_loss")


def _row(*values: float) -> dict[str, float]:
    return dict(zip(COLUMNS, values, strict=True))


def _set(*values: float) -> dict[str, float]:
    return dict(zip(SAMPLE_COLUMNS, values, strict=True))


TABLE_1: dict[str, dict[str, dict[str, float]]] = {
    "mnist": {"consistent": _set(94.61, 92.58, 0.3262, 0.1443), "inconsistent": _set(60.94, 21.87, 4.1833, 2.2442)},
    "svhn": {"consistent": _set(86.25, 52.37, 5.1866, 0.9199), "inconsistent": _set(54.61, 11.22, 7.0301, 3.074)},
    "cifar10": {"consistent": _set(89.53, 69.81, 2.0889, 0.5236), "inconsistent": _set(59.88, 14.34, 6.2318, 2.7438)},
}
"""Data set -> "consistent" or "inconsistent" -> column of `SAMPLE_COLUMNS`, of a model trained with ALP.

Mean softmax probabilities of the true class in percent, losses as printed (the paper names no unit).
"""

TABLE_2: dict[str, dict[str, dict[str, float]]] = {
    "mnist": {
        "raw": _row(99.18, 7.72, 0.49, 0.54, 0.64, 0.53, 0.0, 0.0, 0.0, 0.0),
        "adv": _row(99.0, 96.92, 95.69, 95.52, 94.14, 92.49, 96.28, 95.85, 94.53, 93.78),
        "alp": _row(98.77, 97.68, 96.66, 96.58, 96.37, 94.5, 96.96, 97.07, 96.73, 96.16),
        "trades": _row(98.48, 98.34, 96.9, 96.68, 96.63, 95.35, 97.09, 97.09, 96.96, 95.76),
        "aalp_gd": _row(98.16, 98.17, 97.13, 97.04, 96.71, 95.72, 96.92, 97.08, 96.78, 96.39),
        "aalp_sw": _row(98.16, 97.77, 97.05, 96.82, 96.66, 95.87, 97.18, 97.15, 96.87, 96.76),
        "aalp": _row(98.49, 98.19, 97.22, 97.13, 97.15, 96.32, 97.28, 97.54, 97.26, 96.89),
    },
    "svhn": {
        "raw": _row(95.57, 8.85, 2.23, 2.22, 2.25, 2.17, 0.83, 0.76, 0.71, 0.66),
        "adv": _row(86.41, 48.53, 31.51, 27.44, 25.75, 25.02, 38.41, 35.32, 33.93, 33.04),
        "alp": _row(85.28, 53.47, 40.05, 36.55, 35.07, 34.15, 44.82, 42.48, 41.52, 40.86),
        "trades": _row(84.05, 61.14, 42.71, 40.42, 39.46, 38.78, 46.77, 44.83, 44.0, 43.54),
        "aalp_gd": _row(86.23, 59.18, 44.05, 42.57, 42.27, 41.23, 46.47, 44.96, 44.51, 44.05),
        "aalp_sw": _row(84.69, 62.83, 44.3, 40.99, 40.99, 39.94, 47.78, 45.87, 44.68, 43.8),
        "aalp": _row(84.13, 57.67, 45.05, 43.35, 42.6, 42.18, 47.92, 47.08, 46.77, 46.57),
    },
    "cifar10": {
        "raw": _row(90.51, 14.24, 5.93, 5.8, 5.97, 6.04, 1.92, 1.88, 1.73, 1.53),
        "adv": _row(83.36, 63.28, 49.29, 45.25, 44.85, 44.72, 46.2, 45.16, 44.76, 44.65),
        "alp": _row(82.8, 64.96, 52.79, 49.04, 48.81, 48.6, 52.81, 52.13, 51.79, 51.65),
        "trades": _row(82.73, 64.17, 53.47, 52.52, 52.38, 52.29, 59.74, 58.91, 58.71, 58.66),
        "aalp_gd": _row(80.5, 65.0, 54.78, 51.69, 51.51, 51.4, 59.0, 58.45, 58.31, 58.23),
        "aalp_sw": _row(82.37, 65.69, 53.96, 50.25, 49.91, 49.74, 53.35, 52.51, 52.33, 52.12),
        "aalp": _row(80.45, 65.42, 55.23, 52.59, 52.41, 52.38, 60.0, 59.47, 59.34, 59.3),
    },
}
"""Data set -> method -> column of `COLUMNS`: correct test images in percent."""

TABLE_3: dict[str, dict[str, float]] = {
    method: dict(zip(("clean", "pgd10", "cw10"), values, strict=True))
    for method, values in {
        "raw": (95.57, 2.23, 0.0),
        "raw_gd": (94.36, 3.17, 0.04),
        "adv": (86.41, 31.51, 24.03),
        "adv_gd": (95.07, 35.34, 34.51),
        "alp": (85.28, 40.05, 31.17),
        "aalp_gd": (86.23, 44.05, 37.57),
    }.items()
}
"""Method -> "clean", "pgd10" or "cw10": correct test images in percent, on SVHN with ResNet9."""

TABLE_4: dict[str, dict[str, float]] = {
    "mnist": {"alp": 94.91, "aalp": 96.03},
    "svhn": {"alp": 30.89, "aalp": 36.58},
    "cifar10": {"alp": 41.61, "aalp": 43.78},
}
"""Data set -> method -> share of the test images in percent that are right both clean and attacked."""


class PaperSetting(NamedTuple):
    """What section 4.1 says of training on one data set: radius and step of the attack, PGD, in units of [0, 1], and
    the weight of the pairing loss where the paper gives it."""

    model: str
    optimizer: str
    lr: float
    eps: float
    step: float
    steps: int
    alpha: float | None = None


SETTINGS: dict[str, PaperSetting] = {
    "mnist": PaperSetting("lenet", "adam", 1e-4, 0.3, 0.01, 40),
    "svhn": PaperSetting("resnet9", "adam", 1e-4, 12 / 255, 3 / 255, 10, alpha=1.0),
    "cifar10": PaperSetting("resnet32", "adam", 1e-5, 8 / 255, 2 / 255, 7),
}
"""Data set -> the paper's training; it gives no batch size, epochs, weight decay, augmentation or schedule."""


class Finding(NamedTuple):
    """A network's accuracy in percent under the attack that it looked good under, and under a stronger one; `source`
    are keys of the book's bibliography."""

    source: tuple[str, ...]
    data: str
    network: str
    weak_attack: str
    weak: float
    strong_attack: str
    strong: float


_CLAIM = (("kannan2018", "engstrom2018"), "ImageNet", "ALP", "targeted PGD, as published", 27.9)
AFTERWARDS: tuple[Finding, ...] = (
    Finding(*_CLAIM, "targeted PGD, up to 1,000 steps", 0.6),
    Finding(*_CLAIM, "untargeted PGD, up to 1,000 steps", 0.1),
    *(
        Finding(("mosbach2018",), data, network, "PGD, default settings", weak, "strongest of theirs", strong)
        for data, network, weak, strong in (
            ("MNIST", "half AT", 92.7, 88.2),
            ("MNIST", "half AT + ALP", 97.2, 89.9),
            ("MNIST", "AT", 95.2, 88.0),
            ("MNIST", "AT + ALP", 96.6, 85.7),
            ("CIFAR-10", "half AT", 18.6, 7.3),
            ("CIFAR-10", "half AT + ALP", 21.8, 10.5),
            ("CIFAR-10", "AT", 16.0, 6.7),
            ("CIFAR-10", "AT + ALP", 19.0, 6.4),
        )
    ),
)
"""What became of ALP. "half AT" (published as 50% AT) trains on clean and adversarial images alike, as Eq. 10 does,
"AT" (100% AT) on adversarial ones.

ImageNet: 64×64, radius 16/255; the stronger attack met the weights that were released, which by their authors' word are
not those of the published number.
"""
