"""Adaptive Adversarial Logits Pairing, measured: data, models, attacks, methods, training and evaluation.

Read in the order in which the data flows: data, models, losses, taylor, contributions, attacks, methods, train,
evaluate, results, experiments, plots.
"""

from aalp_lib import contributions, data, losses, models, taylor
from aalp_lib._checks import InputError
from aalp_lib.attacks import CW, FGSM, PGD, Attack
from aalp_lib.checkpoints import load_model
from aalp_lib.data import Dataset, Split, load
from aalp_lib.evaluate import Outcome, Report, evaluate, suite_in_ball, table2_suite
from aalp_lib.methods import METHODS, GuidedDropout, Method, training_loss
from aalp_lib.models import Classifier
from aalp_lib.train import Epoch, History, Interrupted, Recipe, fit

__version__ = "0.1.0"
__all__ = [
    "CW",
    "FGSM",
    "METHODS",
    "PGD",
    "Attack",
    "Classifier",
    "Dataset",
    "Epoch",
    "GuidedDropout",
    "History",
    "InputError",
    "Interrupted",
    "Method",
    "Outcome",
    "Recipe",
    "Report",
    "Split",
    "contributions",
    "data",
    "evaluate",
    "fit",
    "load",
    "load_model",
    "losses",
    "models",
    "suite_in_ball",
    "table2_suite",
    "taylor",
    "training_loss",
]
