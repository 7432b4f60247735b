from . import (
    attacks as attacks,
    autoattack as autoattack,
    book as book,
    checkpoints as checkpoints,
    cli as cli,
    commands as commands,
    contributions as contributions,
    data as data,
    diagnosis as diagnosis,
    engine as engine,
    evaluation as evaluation,
    losses as losses,
    methods as methods,
    models as models,
    plots as plots,
    progress as progress,
    reproduction as reproduction,
    resume as resume,
    seeds as seeds,
    taylor as taylor,
    train as train,
    zoo as zoo,
)
from ._checks import InputError as InputError
from .attacks import CW as CW, FGSM as FGSM, PGD as PGD, Attack as Attack
from .autoattack import auto_attack as auto_attack
from .checkpoints import load_model as load_model
from .data import Dataset as Dataset, Split as Split, load as load
from .diagnosis import Diagnosis as Diagnosis, diagnose as diagnose
from .engine import distributed as distributed
from .evaluation import (
    Outcome as Outcome,
    Report as Report,
    evaluate as evaluate,
    strong_suite as strong_suite,
    suite_in_ball as suite_in_ball,
    table2_suite as table2_suite,
)
from .methods import (
    METHODS as METHODS,
    GuidedDropout as GuidedDropout,
    Method as Method,
    method as method,
    training_loss as training_loss,
)
from .models import Classifier as Classifier
from .train import Epoch as Epoch, History as History, Interrupted as Interrupted, Recipe as Recipe, fit as fit
from .zoo import pretrained as pretrained

__version__: str
