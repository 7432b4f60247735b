"""Training: `fit`, which goes through `_Run.step` batch by batch, and is resumed to the same bits wherever it ended."""

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import signal
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from aalp_lib import _checks, _tables, checkpoints, data, engine, folders, methods, seeds
from aalp_lib._checks import InputError
from aalp_lib.attacks import PGD, Attack, scaled
from aalp_lib.checkpoints import BEST, LAST, Checkpoint, Description
from aalp_lib.data import Dataset, Split
from aalp_lib.engine import distributed
from aalp_lib.engine.distributed import Shard
from aalp_lib.methods import Method, Terms, attacked_view, terms
from aalp_lib.models import Classifier, require_classifier
from aalp_lib.progress import Tell, shown

Batches = Iterable[tuple[Tensor, Tensor]]
VAL_STEPS = 10
WATCHED = (
    f"{VAL_STEPS} PGD steps of eps / 4"  # what validation attacks with, at full eps; Table 2's PGD-10 steps otherwise
)
ALONE = "batch norm cannot learn from a batch of one image"


@_checks.hinted
@dataclass(frozen=True)
class Recipe:
    """How a method is trained; held equal across the methods that are compared.

    Attributes
    ----------
    epochs, batch_size : int
        An epoch's last batch holds the rest. If that is one image from which batch norm cannot learn, it joins the
        batch before.
    lr : float
        Adam's learning rate; the peak of a one-cycle schedule.
    schedule : "constant" or "one-cycle"
        One-cycle rises linearly over the first 30 % of the steps and then falls linearly towards 0, never below 1 % of
        the peak.
    ramp : float
        Fraction of the run over which eps and step of the training attack rise linearly from 0. Without it, training
        at MNIST's eps = 0.3 can stick at a constant prediction, a loss of log K: a narrow LeNet did at every rate
        tried, the default one at 2e-3 and at no smaller one. Chapter 2 of the book maps it.
    weight_decay : float
        Adam's, an L2 penalty.
    crop : int
        Padding of random crops in pixels, 0 for none.
    flip : bool
        Random horizontal flips.
    precision : "float32" or "bfloat16"
        bfloat16 is autocast: weights, images and losses stay float32.
    channels_last : bool
        Memory format of images and weights; never changes results beyond rounding.

    Raises
    ------
    InputError
        If a number is out of range or a name unknown.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 1e-3
    schedule: Literal["constant", "one-cycle"] = "one-cycle"
    ramp: float = 0.3
    weight_decay: float = 0.0
    crop: int = 0
    flip: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True

    def __post_init__(self) -> None:
        _checks.plain_numbers(self)
        _checks.count("epochs", self.epochs)
        _checks.count("batch_size", self.batch_size)
        _checks.count("crop", self.crop, least=0)
        _checks.positive("lr", self.lr)
        _checks.number("weight_decay", self.weight_decay)
        _checks.number("ramp", self.ramp)
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if not 0 <= self.ramp <= 1:
            raise InputError(f"ramp is a fraction of the run and must lie in [0, 1], got {self.ramp}")
        _checks.known("schedule", self.schedule, ("constant", "one-cycle"))
        _checks.known("precision", self.precision, ("float32", "bfloat16"))

    def eps_fraction(self, progress: float) -> float:
        """Fraction of the attack's full radius at `progress` in (0, 1] of the run."""
        return min(1.0, progress / self.ramp) if self.ramp else 1.0

    def lr_at(self, progress: float) -> float:
        """Learning rate at `progress` in (0, 1] of the run."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * max(0.01, min(progress / 0.3, (1 - progress) / 0.7))


@dataclass(frozen=True)
class Epoch:
    """One line of a history: means over the epoch's steps, then accuracies on the validation split after it.

    Fractions are in [0, 1]; `clean` and `robust` are None without a validation split, `robust` without an attack, too.
    """

    epoch: int
    loss: float
    classification: float
    pairing: float  # before its weight
    kept: float  # fraction of features that Guided Dropout kept
    eps: float  # of the last step, like `lr`
    lr: float
    clean: float | None
    robust: float | None  # under the validation attack: see `WATCHED`
    seconds: float  # wall time of the steps alone


@dataclass(repr=False)
class History(_tables.Tabled):
    """What training left behind; printed, a table.

    Attributes
    ----------
    epochs : list of Epoch
    best : int, optional
        Number of the best epoch on the validation split.
    seconds : float
        Wall time of all steps and validations, those of interrupted sessions included.

    Examples
    --------
    >>> history = History([Epoch(1, 2.3, 2.3, 0.0, 1.0, 0.1, 1e-3, 0.5, 0.2, 1.0)], best=1)
    >>> history["robust"]
    [0.2]
    """

    epochs: list[Epoch] = field(default_factory=list)
    best: int | None = None
    seconds: float = 0.0

    def __getitem__(self, name: str) -> list[Any]:
        return [getattr(epoch, name) for epoch in self.epochs]

    def __len__(self) -> int:
        return len(self.epochs)

    def _table(self) -> _tables.Table:
        shown = [name for name in COLUMNS if self.epochs and None not in self[name]]
        rows = [[COLUMNS[name](getattr(epoch, name)) for name in shown] for epoch in self.epochs]
        notes = [f"robust: right under {WATCHED}"] if "robust" in shown else []
        notes += [f"best epoch on the validation split: {self.best}"] if "clean" in shown else []
        return shown or ["no epoch yet"], rows, notes


COLUMNS: dict[str, Callable[[float], str]] = {  # of a printed history
    "epoch": str,
    **dict.fromkeys(("loss", "classification", "pairing"), "{:.4f}".format),
    "kept": functools.partial(_tables.percent, digits=1),
    **dict.fromkeys(("eps", "lr"), "{:.3g}".format),
    **dict.fromkeys(("clean", "robust"), _tables.percent),
    "seconds": "{:.1f}".format,
}


class State(Description, kw_only=True):
    """What the description of a checkpoint of `fit` says: how far the run has come, `seconds` into the next epoch.

    `images` are checksums of the images, by split, as far as they were known; empty in files of earlier versions.
    """

    done: Annotated[int, msgspec.Meta(ge=0)]
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    history: History
    images: dict[str, int] = msgspec.field(default_factory=dict)


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and has saved its state; the message says how to go on."""


@_checks.hinted
def fit(
    model: Classifier,
    data: Dataset | Batches,
    method: str | Method,
    attack: Attack | None = None,
    *,
    epochs: int | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
    val: Split | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool | Tell | None = None,
) -> History:
    """Train `model` in place, where its weights are, and return the history.

    Parameters
    ----------
    model : Classifier
    data : Dataset, Split, (images, labels), or any iterable of such pairs of batches with a length
        Images (N, C, H, W) in [0, 1] or uint8, labels (N,). An iterable, a DataLoader say, gives floating-point images
        and is gone through once an epoch.
    method : str or Method
        A row of `METHODS`.
    attack : Attack, optional
        What is trained against, at full eps; its eps is that of the robust accuracy on the validation split, too. Only
        methods without adversarial images can do without.
    epochs : int, optional
        Instead of the recipe's.
    seed : int
        Fixes order, augmentation and starts. Every step draws from a seed of its own, so that a resumed run sees what
        an uninterrupted one would have seen. torch's global generators are left as they were.
    recipe : Recipe, optional
    val : Split, optional
        Validation split; by default the data set's.
    out : path, optional
        Folder for `run.json`, `last.safetensors` (after every epoch, with what resuming needs) and `best.safetensors`
        (highest robust accuracy on the validation split; for methods without adversarial images, clean accuracy).
    resume : bool
        Go on with the run in `out` if there is one, with the number of threads that it began with. On the same machine
        this gives bit for bit the weights of an uninterrupted run (for a loader, as far as it repeats its own order).
    progress : bool or callable, optional
        True shows a bar, False none; by default there is one in a terminal or notebook once it takes more than a
        second. A function is called after every step with steps done, steps in all, and a word on the state;
        it may raise KeyboardInterrupt to ask for a stop. On several processes rank 0's alone is shown or called.

    Returns
    -------
    History

    Raises
    ------
    InputError
        Bad arguments, data that the model cannot take, a run in `out` that was started with other settings, or another
        process at work there; on several processes also arguments that differ between them, and batch norm to be
        trained without CUDA.
    FileExistsError
        `out` already holds a run and `resume` is False.
    OSError
        `out` cannot be written.
    FloatingPointError
        The loss is no longer finite; the message names the last good checkpoint.
    Interrupted
        After Ctrl-C, with `out`: the state is saved first.

    Warns
    -----
    UserWarning
        If the run began with another number of threads; and as `folders.held`.

    Notes
    -----
    `torchrun --nproc-per-node 4 script.py`, or for the command `torchrun --nproc-per-node 4 -m aalp_lib train ...`,
    starts four processes on a machine: on GPUs over NCCL, each with its own (`distributed.device("auto")`); else gloo.
    Each holds the network (rank 0's weights) and all data, and computes on every n-th row of a batch of `batch_size`.
    So the weights are, up to rounding, those of one process, except that layers which draw, dropout say, draw
    otherwise. Give every process the whole loader, without DistributedSampler. Batch norm becomes SyncBatchNorm, which
    torch has on CUDA alone: on several CPU processes its statistics must be frozen (evaluation mode). Rank 0 alone
    reads and writes `out`; a Ctrl-C on any process stops all.

    Examples
    --------
    >>> import aalp_lib as aalp
    >>> sample = aalp.load("mnist-sample")
    >>> history = aalp.fit(aalp.models.lenet((8, 16, 64)), sample, "raw", epochs=1, recipe=Recipe(lr=3e-3))
    >>> len(history), history["clean"][0] > 0.5
    (1, True)
    """
    for name, value, kind in (("attack", attack, Attack), ("recipe", recipe, Recipe)):
        if value is not None and not isinstance(value, kind):
            article = "an" if name == "attack" else "a"
            raise InputError(f"{name} must be {article} {kind.__name__}, got {type(value).__name__}")
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise InputError(f"progress must be True, False or a function, got {progress!r}")
    recipe = Recipe() if recipe is None else recipe
    if epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=epochs)
    require_classifier(model)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError("the model has no weights that can be trained; quantised and frozen ones cannot")
    with distributed.joined(next(model.parameters()).device), distributed.synced_norms(model):
        folder = _checks.path(out) if out is not None else None
        run = _Run(model, data, methods.method(method), attack, recipe, seed, val, folder)
        try:
            with folders.held(run.out):
                run.open(resume)
                _say_whose_threads(run)
                with folders.own_threads(run.out):
                    _train(run, progress if distributed.rank() == 0 else False)
        finally:
            del run.loss  # DistributedDataParallel would keep alive the group that is left here
    return run.history


def _say_whose_threads(run: "_Run") -> None:
    if distributed.rank() or run.device.type != "cpu" or run.done == run.total:
        return
    own, now = folders.threads(run.out), torch.get_num_threads()
    if own != now:
        warnings.warn(
            f"the run in {run.out} goes on with the number of threads that it began with, {own}, not with {now}: "
            "another number would give other bits",
            stacklevel=3,
        )


def _train(run: "_Run", progress: bool | Tell | None) -> None:
    """Take all steps that remain, unless asked to stop."""
    with shown(progress, "training") as tell, seeds.restored(), asked_to_stop(run.out is not None) as asked:
        for inputs in run.batches():
            run.step(*inputs)
            try:
                if tell:
                    tell(run.done, run.total, run.status())
            except KeyboardInterrupt:
                asked.set()
            if distributed.on_any(asked.is_set(), run.device) and run.done < run.total:
                run.save()
                saved = f"saved in {run.out}, resume to go on" if run.out else "nothing is saved without `out`"
                raise Interrupted(f"stopped after step {run.done} of {run.total}; {saved}")


class _Run:
    """The state of one training and what moves it on by a step; what this needs is set up further down."""

    done: int  # steps
    sums: Tensor  # of the loss's terms since the epoch began, float64 (4,)
    seconds: float  # of those steps
    history: History

    # --- the loop

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Shard]]:
        """Yield this rank's part of the remaining batches, torch seeded anew for each and for each epoch's order."""
        while self.done < self.total:
            epoch, skipped = divmod(self.done, self.per_epoch)
            torch.manual_seed(seeds.derive(self.seed, "epoch", epoch))
            batches = iter(self._epoch())
            for index in range(self.per_epoch):
                torch.manual_seed(seeds.derive(self.seed, "step", epoch * self.per_epoch + index))
                batch = next(batches, None)
                if batch is None:
                    raise InputError(f"the loader gave {index} batches, but its length says {self.per_epoch}")
                if index >= skipped:
                    yield self._augmented(*(part.to(self.device) for part in data.pair(batch)))

    def step(self, x: Tensor, y: Tensor, shard: Shard) -> None:
        """One step on this rank's rows of a batch; after an epoch's last, a line in the history and a checkpoint."""
        began = time.perf_counter()
        progress = (self.done + 1) / self.total
        self.sums += self._learn(x, y, shard, progress).double().cpu()
        self.done += 1
        took = time.perf_counter() - began
        self.seconds += took
        self.history.seconds += took
        if self.done % self.per_epoch == 0:
            self._finish_epoch(progress)

    def _learn(self, x: Tensor, y: Tensor, shard: Shard, progress: float) -> Tensor:
        """The paper's step: attack the images, take Eq. 10 of both kinds, descend; returns Eq. 10's terms (4,)."""
        with self._autocast():
            x_adv = self._attacked(x, y, shard, progress)
        # autocast anew: weights that were cast where no gradient was wanted must not be found again
        with self._autocast(), self._own_draws():
            found = self._terms(x, x_adv, y)
        means = distributed.mean(torch.stack([term.detach() for term in found]), len(y))
        self._check_finite(means[0])
        self.optimizer.zero_grad(set_to_none=True)
        (found.total * shard.weight).backward()
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr_at(progress)
        self.optimizer.step()
        return means

    def _terms(self, x: Tensor, x_adv: Tensor | None, y: Tensor) -> Terms:
        try:
            found: Terms = self.loss(x, x_adv, y)
        except ValueError as error:
            if not _too_few(error):
                raise
            raise InputError(f"{ALONE}; step {self.done + 1} was given one (a loader can leave it out)") from error
        return found

    def _attacked(self, x: Tensor, y: Tensor, shard: Shard, progress: float) -> Tensor | None:
        if self.attack is None:
            return None
        attack = scaled(self.attack, self.recipe.eps_fraction(progress))
        with engine.prepared(self.model, x, self.format, look=len(x) > engine.PART) as forward:
            return attack.perturb(attacked_view(self.method, self.model, forward, x, y), x, y, shard=shard)

    def _finish_epoch(self, progress: float) -> None:
        began = time.perf_counter()
        clean, robust = self._validate()
        self.history.seconds += time.perf_counter() - began
        loss, classification, pairing, kept = (self.sums / self.per_epoch).tolist()
        eps = self.attack.eps * self.recipe.eps_fraction(progress) if self.attack else 0.0
        number, lr = len(self.history) + 1, self.recipe.lr_at(progress)
        line = Epoch(number, loss, classification, pairing, kept, eps, lr, clean, robust, self.seconds)
        self.history.epochs.append(line)
        self.sums, self.seconds = torch.zeros_like(self.sums), 0.0
        accuracies = self.history["robust" if self.method.adversarial else "clean"]
        if accuracies[-1] is None or accuracies[-1] >= max(accuracies):  # ties go to the later epoch
            self.history.best = line.epoch
        self.save()
        self._save_best()

    def _validate(self) -> tuple[float | None, float | None]:
        """Clean and robust accuracy on the validation split, in float32 whatever the recipe's precision."""
        if self.val is None:
            return None, None
        split, attack = self.val.to(self.device), self.watched
        counts = torch.zeros(2, device=self.device)
        with engine.prepared(self.model, data.to_float(split.images[:2]), self.format) as forward:
            for batch in split.batches(512):
                x, y, shard = self._of_rank(*batch)
                with torch.no_grad():
                    right = forward(x).argmax(1) == y
                alive = (
                    attack.survivors(forward, x, y, [attack.steps], among=right, shard=shard)[0] if attack else right
                )
                fractions = torch.stack([right.float().mean(), alive.float().mean()])
                counts += (distributed.mean(fractions, len(y)) * shard.of).round()  # small rows may be on every rank
        clean, robust = (counts.double() / len(split)).tolist()
        return clean, robust if attack else None

    def status(self) -> str:
        """A word on the state: the epoch, and the latest accuracies."""
        text = f"epoch {min(self.done // self.per_epoch + 1, self.recipe.epochs)}/{self.recipe.epochs}"
        if self.history.epochs and self.history.epochs[-1].robust is not None:
            text += f" val {self.history.epochs[-1].clean:.0%} robust {self.history.epochs[-1].robust:.0%}"
        return text

    # --- what it starts from

    def __init__(
        self,
        model: Classifier,
        source: Dataset | Batches,
        method: Method,
        attack: Attack | None,
        recipe: Recipe,
        seed: int,
        val: Split | None,
        out: Path | None,
    ) -> None:
        self.device = next(model.parameters()).device
        self.model, self.method, self.recipe, self.seed = model, method, recipe, seed
        self.infinite = checkpoints.infinite_buffers(model)
        self.out = distributed.once(lambda: out)
        self.data_name = source.name if isinstance(source, Dataset) else None
        self.classes = list(source.classes) if isinstance(source, Dataset) else None
        given: Split | Batches = source.train if isinstance(source, Dataset) else data.paired(source)
        self.train = given.to(self.device) if isinstance(given, Split) else given
        self.val = data.paired(val) or (source.val if isinstance(source, Dataset) else None)
        self.attack = method.training_attack(attack) if attack is not None and method.adversarial else None
        self.watched = PGD(attack.eps, attack.eps / 4, VAL_STEPS, norm=attack.norm) if attack is not None else None
        self.format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self._check(attack)
        self.per_epoch = _batches_per_epoch(self.train, recipe.batch_size)
        self.done, self.seconds, self.history = 0, 0.0, History()
        self.sums = torch.zeros(4, dtype=torch.float64)
        model.to(memory_format=self.format)
        if not model.training:
            model.train()  # a model in training mode keeps the children that were put into evaluation mode
        self.joined = self._last_joins()
        self.per_epoch -= self.joined
        self.total = self.per_epoch * recipe.epochs
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused
        )
        self._check_ranks()
        self.loss = distributed.parallel(_Loss(method, model))

    def _check(self, attack: Attack | None) -> None:
        """Bad input ends here: an attack that is missing, images or labels that the model cannot take."""
        self.seed = _checks.seed("the seed", self.seed)
        dropout = self.method.guided_dropout
        if self.method.adversarial and attack is None:
            raise InputError(f"method '{self.method.name}' trains on adversarial images: pass an attack, PGD(...) say")
        if attack and attack.restarts > 1 and dropout and dropout.in_attack and dropout.scope == "sample":
            raise InputError("a mask for each sample in the attack goes with one start only, got restarts > 1")
        if self.val is not None and not isinstance(self.val, Split):
            raise InputError(f"val must be a Split, got {type(self.val).__name__}")
        for split in (self.train, self.val):
            if isinstance(split, Split):
                self.format = self._check_batch(data.to_float(split.images[:2].to(self.device)), split.labels)

    def _last_joins(self) -> bool:
        """Whether an epoch would end with one image that batch norm cannot learn from: it joins the batch before.

        InputError if it cannot, as in a loader that is known to give such a batch.
        """
        if not any(isinstance(module, _BatchNorm) and module.training for module in self.model.modules()):
            return False
        size = self.recipe.batch_size
        if not isinstance(self.train, Split):
            single = _single(self.train)
            if single is not None and not self._learns_from_one(*single):
                raise InputError(f"{ALONE}, and the data has one; a DataLoader leaves it out with drop_last=True")
            return False
        if (len(self.train) - 1) % size or self._learns_from_one(self.train.images[:1], self.train.labels[:1]):
            return False
        if min(size, len(self.train)) == 1:
            raise InputError(ALONE)
        return True

    def _learns_from_one(self, image: Tensor, label: Tensor) -> bool:
        x, y, _ = self._of_rank(data.to_float(image.to(self.device)), label.to(self.device))
        with seeds.restored():
            try:
                terms(self.method, copy.deepcopy(self.model), x, None if self.attack is None else x, y)
            except ValueError as error:
                return not _too_few(error)
        return True

    def _check_ranks(self) -> None:
        """On several processes, all must have been given the same, or they would wait for each other in vain."""
        if distributed.world_size() == 1:
            return
        given = self.settings() | {"validation": self.val and len(self.val)}
        given |= {"normalisation": checkpoints.normalisation(self.model), "images": self.images}
        first, *others = distributed.gathered(given)
        for rank, other in enumerate(others, 1):
            for key, here, there in folders.differences(first, other):
                raise InputError(f"every process needs the same {key}, but rank 0 has {here} and rank {rank} {there}")

    # --- a batch, before and while it is learnt

    def _epoch(self) -> Batches:
        if isinstance(self.train, Split):
            order = torch.randperm(len(self.train)).to(self.device)
            if not self.joined:
                return self.train.batches(self.recipe.batch_size, order)
            *whole, before, last = order.split(self.recipe.batch_size)
            parts = [*whole, torch.cat([before, last])]
            return itertools.chain.from_iterable(self.train.batches(len(rows), rows) for rows in parts)
        return self.train

    def _augmented(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Shard]:
        if not isinstance(self.train, Split):
            self._lay_out(self._check_batch(images, labels))
            if len(set(distributed.gathered(_checksum(labels)))) > 1:
                raise InputError(
                    "every process must be given the same batches, but they differ; use no DistributedSampler"
                )
        if self.recipe.crop:
            images = data.random_crop(images, self.recipe.crop)
        if self.recipe.flip:
            images = data.random_flip(images)
        return self._of_rank(images, labels)

    def _of_rank(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Shard]:
        """This rank's rows of a batch, which every rank holds."""
        shard = distributed.shard(len(labels))
        return images[shard.rows].contiguous(memory_format=self.format), labels[shard.rows], shard

    def _check_batch(self, images: Tensor, labels: Tensor) -> torch.memory_format:
        """The first images alone tell the number of classes, and the memory format that the network can take."""
        _checks.images(images)
        if self.watched is not None:
            self.watched.fitting(images)
        with engine.prepared(self.model, images, self.format) as forward:
            _checks.labels(labels, len(labels), forward.classes)
            return forward.layout

    def _lay_out(self, layout: torch.memory_format) -> None:
        if layout != self.format:
            self.format = layout
            self.model.to(memory_format=layout)
            for parameter, moments in self.optimizer.state.items():
                moments.update({key: _laid_out(value, parameter) for key, value in moments.items()})

    @contextlib.contextmanager
    def _own_draws(self) -> Iterator[None]:
        """On several processes, layers that draw must not do the same on every rank, and what follows them must."""
        if distributed.world_size() == 1:
            yield
            return
        with seeds.restored():
            torch.manual_seed(seeds.derive(self.seed, f"rank {distributed.rank()}", self.done))
            yield

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {float(loss)} in step {self.done + 1} of {self.total}; {self._last_good()}. "
                f"Start anew with a lower lr than {self.recipe.lr:g} or a longer ramp than {self.recipe.ramp:g}"
            )

    def _last_good(self) -> str:
        saved = self.out is not None and (self.out / LAST).exists()
        return f"the last good checkpoint is {self.out and self.out / LAST}" if saved else "nothing was saved"

    # --- on disk

    @functools.cached_property
    def images(self) -> dict[str, int]:
        """Checksums of the images, by split; a loader's are not known."""
        splits = {"training": self.train, "validation": self.val}
        return {name: _checksum(split.images) for name, split in splits.items() if isinstance(split, Split)}

    def settings(self) -> dict[str, Any]:
        """What makes this run the run that it is; a resumed one must have the same."""
        described: dict[str, Any] = {
            "data": {"name": self.data_name},
            "method": self.method.described(),
            "attack": self.attack.described() if self.attack else None,
            "watched": self.watched.described() if self.watched else None,
            "recipe": dataclasses.asdict(self.recipe),
            "seed": self.seed,
            "model": self.model.config,
            "steps": self.total,
        }
        if isinstance(self.train, Split):
            described["data"] |= {"images": len(self.train), "labels_crc32": _checksum(self.train.labels)}
        return json.loads(json.dumps(described))  # as they come back from disk: tuples are lists

    def open(self, resume: bool) -> None:
        """Take possession of the folder, and take up the state of the run in it, if there is one."""
        out = self.out  # rank 0's, on all
        if resume and out is None:
            raise InputError("there is no run to resume without `out`, the folder that it is in")
        saved = distributed.once(lambda: folders.begun(out, self.settings(), resume)) if out is not None else None
        if saved is not None:
            self._take_up(saved)

    def save(self) -> None:
        """Write everything that going on needs."""
        moments = {
            f"optimizer.{name}.{key}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        self._write(LAST, moments | {"sums": self.sums})

    def _save_best(self) -> None:
        """Write the model if it is the best, once its epoch is saved: a kill in between is made good on resuming."""
        if self.history.best == len(self.history) and self.done % self.per_epoch == 0:
            self._write(BEST, {})

    def _write(self, name: str, extra: dict[str, Tensor]) -> None:
        if self.out is not None:
            path = self.out / name
            distributed.once(lambda: self._write_to(path, extra))

    def _write_to(self, path: Path, extra: dict[str, Tensor]) -> None:
        weights = self.model.state_dict()
        for name, weight in weights.items():
            if name not in self.infinite and weight.is_floating_point() and not torch.isfinite(weight).all():
                raise FloatingPointError(f"{name} is no longer finite after step {self.done}; {self._last_good()}")
        state = State(
            model=self.model.config,
            normalisation=checkpoints.normalisation(self.model),
            classes=self.classes,
            images=self.images,
            done=self.done,
            seconds=self.seconds,
            history=self.history,
        )
        named = {f"model.{name}": weight for name, weight in weights.items()}
        checkpoints.write(path, Checkpoint(named | extra, msgspec.to_builtins(state)))

    def _take_up(self, saved: Checkpoint) -> None:
        if "sums" not in saved.tensors:
            raise InputError(f"{saved.path} holds weights alone; training cannot go on from it")
        state = saved.described_as(State)
        for split in (state.images | self.images) if state.images else ():
            if state.images.get(split) != self.images.get(split):
                raise InputError(
                    f"the run in {self.out} was started with other {split} images than those given now; "
                    "resume with the same images, or name another folder"
                )
        checkpoints.load_weights(self.model, saved)
        moments = saved.part("optimizer")
        for name, parameter in self.model.named_parameters():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if (moment := moments.get(f"{name}.{key}")) is not None:  # a frozen parameter has none
                    _check_shape(saved, moment, torch.Size() if key == "step" else parameter.shape, f"{name}.{key}")
                    self.optimizer.state[parameter][key] = _laid_out(moment, parameter)
        _check_shape(saved, saved.tensors["sums"], self.sums.shape, "sums")
        if state.done > self.total or len(state.history) != state.done // self.per_epoch:
            raise InputError(f"{saved.path} tells of {state.done} steps and {len(state.history)} epochs of another run")
        self.done, self.seconds, self.history = state.done, state.seconds, state.history
        self.sums = saved.tensors["sums"]
        self._save_best()


class _Loss(nn.Module):
    """The training loss as a module, which DistributedDataParallel can hook into."""

    def __init__(self, method: Method, model: Classifier) -> None:
        super().__init__()
        self.method, self.model = method, model

    def forward(self, x: Tensor, x_adv: Tensor | None, y: Tensor) -> Terms:
        return terms(self.method, self.model, x, x_adv, y)


@contextlib.contextmanager
def asked_to_stop(wanted: bool = True) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, instead of stopping in the middle of a step; the second one stops.

    Without `wanted`, outside the main thread, and where SIGINT is ignored, nothing sets it.
    """
    asked = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)  # not from `signal.signal` below: `ask` may be called before that returns
    if not wanted or not main or before is signal.SIG_IGN:
        yield asked
        return

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _too_few(error: ValueError) -> bool:
    """Whether batch norm says that one value has no variance."""
    return "more than 1 value per channel" in str(error)


def _single(source: Batches) -> tuple[Tensor, Tensor] | None:
    """A batch of one image, where a list holds one or a DataLoader is known to end in one."""
    if isinstance(source, list | tuple):
        return next((batch for batch in map(data.pair, source) if len(batch[1]) == 1), None)
    if not isinstance(source, DataLoader) or source.drop_last or not isinstance(source.sampler, Sized):
        return None
    size = source.batch_size
    if not size or len(source.sampler) % size != 1 % size or not source.collate_fn:
        return None
    with seeds.restored():
        return data.pair(source.collate_fn([source.dataset[0]]))


def _checksum(values: Tensor) -> int:
    return zlib.crc32(values.cpu().contiguous().view(torch.uint8).numpy().data)


def _batches_per_epoch(source: Split | Batches, size: int) -> int:
    if isinstance(source, Split):
        return -(-len(source) // size)
    try:
        count = len(source)  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError("training data must have a length (batches an epoch); a bare generator has none") from error
    if not count:
        raise InputError("the training data is empty: no batches")
    return count


def _laid_out(moment: Tensor, parameter: Tensor) -> Tensor:
    """Adam's step count as it is; its means in the memory format of the parameter, which the fused update relies on."""
    return moment.to(parameter.device) if not moment.ndim else torch.empty_like(parameter).copy_(moment)


def _check_shape(saved: Checkpoint, found: Tensor, wanted: torch.Size, name: str) -> None:
    if found.shape != wanted or not found.is_floating_point():
        raise InputError(f"{saved.path} does not go with this network: {name} is {found.dtype} {tuple(found.shape)}")
