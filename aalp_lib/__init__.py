"""Adaptive Adversarial Logits Pairing, measured: data, models, attacks, methods, training and evaluation.

Read in the order in which the data flows: data, models, losses, taylor, contributions, attacks, methods, checkpoints,
train, evaluate, results, jobs, experiments, analyses, plots, report. All are attributes of this package; the later ones
are imported when first used.
"""

import importlib
from typing import Any

from aalp_lib import attacks, contributions, data, distributed, losses, methods, models, taylor
from aalp_lib._checks import InputError
from aalp_lib.attacks import CW, FGSM, PGD, Attack
from aalp_lib.checkpoints import load_model
from aalp_lib.data import Dataset, Split, load
from aalp_lib.diagnose import Diagnosis, auto_attack, diagnose, strong_suite
from aalp_lib.evaluate import Outcome, Report, evaluate, suite_in_ball, table2_suite
from aalp_lib.methods import METHODS, GuidedDropout, Method, method, training_loss
from aalp_lib.models import Classifier
from aalp_lib.pretrained import pretrained
from aalp_lib.train import Epoch, History, Interrupted, Recipe, fit

__version__ = "0.1.0"
__all__ = [
    "CW", "FGSM", "METHODS", "PGD", "Attack", "Classifier", "Dataset", "Diagnosis", "Epoch", "GuidedDropout",
    "History", "InputError", "Interrupted", "Method", "Outcome", "Recipe", "Report", "Split", "attacks",
    "auto_attack", "contributions", "data", "diagnose", "distributed", "evaluate", "fit", "load", "load_model",
    "losses", "method", "methods", "models", "pretrained", "strong_suite", "suite_in_ball", "table2_suite", "taylor",
    "training_loss",
]  # fmt: skip
_LATER = (
    "analyses", "bench", "beyond", "chapter", "check", "checkpoints", "collect", "demo", "experiments", "figures",
    "graphs", "interactive", "jobs", "lean", "observe", "paired", "paper", "plots", "report", "results", "study",
    "throughput",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f"aalp_lib.{name}")
    raise AttributeError(f"module 'aalp_lib' has no attribute '{name}'")
