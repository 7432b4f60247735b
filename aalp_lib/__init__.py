"""Adaptive Adversarial Logits Pairing, measured: data, models, attacks, methods, training and evaluation.

Read in the order in which the data flows: data, models, losses, taylor, contributions, attacks, methods, checkpoints,
train, evaluation, diagnosis, zoo, plots. `engine` makes it fast, `reproduction` is the paper again, `book` serves the
chapters; what is slow to import is imported when first used.
"""

import importlib
from typing import TYPE_CHECKING

from aalp_lib import (
    attacks,
    autoattack,
    checkpoints,
    contributions,
    data,
    diagnosis,
    engine,
    evaluation,
    losses,
    methods,
    models,
    taylor,
    train,
    zoo,
)
from aalp_lib._checks import InputError
from aalp_lib.attacks import CW, FGSM, PGD, Attack
from aalp_lib.autoattack import auto_attack
from aalp_lib.checkpoints import load_model
from aalp_lib.data import Dataset, Split, load
from aalp_lib.diagnosis import Diagnosis, diagnose
from aalp_lib.engine import distributed
from aalp_lib.evaluation import Outcome, Report, evaluate, strong_suite, suite_in_ball, table2_suite
from aalp_lib.methods import METHODS, GuidedDropout, Method, method, training_loss
from aalp_lib.models import Classifier
from aalp_lib.train import Epoch, History, Interrupted, Recipe, fit
from aalp_lib.zoo import pretrained

if TYPE_CHECKING:
    from aalp_lib import book, plots, reproduction
else:

    def __getattr__(name: str):
        if name in ("book", "plots", "reproduction"):
            return importlib.import_module(f"aalp_lib.{name}")
        raise AttributeError(f"module 'aalp_lib' has no attribute '{name}'")


__version__ = "0.1.0"
__all__ = [
    "CW", "FGSM", "METHODS", "PGD", "Attack", "Classifier", "Dataset", "Diagnosis", "Epoch", "GuidedDropout",
    "History", "InputError", "Interrupted", "Method", "Outcome", "Recipe", "Report", "Split", "attacks",
    "auto_attack", "autoattack", "book", "checkpoints", "contributions", "data", "diagnose", "diagnosis", "distributed",
    "engine", "evaluate", "evaluation", "fit", "load", "load_model", "losses", "method", "methods", "models", "plots",
    "pretrained", "reproduction", "strong_suite", "suite_in_ball", "table2_suite", "taylor", "train", "training_loss",
    "zoo",
]  # fmt: skip
