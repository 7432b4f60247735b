"""One loop that ascends a loss inside an L∞ ball; FGSM, PGD-k, CW-k and the inner loop of TRADES are settings of it."""

import copy
import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from aalp_lib import _checks, engine, losses
from aalp_lib._checks import InputError
from aalp_lib.engine import Forward
from aalp_lib.engine.distributed import Shard

Reading = Literal["any", "last"]

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": losses.cross_entropy,
    "exact_cross_entropy": losses.exact_cross_entropy,
    "margin": losses.margin,
    "trades_kl": losses.trades_kl,  # its second argument is not the label but the clean image's logits
}
STARTS = ("clean", "uniform", "gaussian")
FIRST = 16  # images that `evaluate` asks whether the loss has a gradient
GAUSSIAN_SCALE = 0.001  # of the start of TRADES, in units of [0, 1]
LOOKED_AT = 8  # images of which a call looks at the logits before it attacks


class _Ball(NamedTuple):
    """What a step needs beside the iterate: the ball's lowest and highest images, the loss's target, a length."""

    low: Tensor
    high: Tensor
    target: Tensor
    step: Tensor


@dataclass(frozen=True)
class Attack:
    """Projected sign-gradient ascent in the L∞ ball around each image, cut to [0, 1] (Madry et al. 2018).

    `x <- clip(x + step * sign(dLoss/dx))`, `steps` times, in the dtype of the images, to whose rounding the ball is
    exact. The model is seen in evaluation mode and left as it was: modes, buffers, `requires_grad` and gradients of the
    weights.

    Attributes
    ----------
    eps, step : float
        Radius of the ball and length of a step, in units of [0, 1].
    steps : int
        Number of gradients taken.
    loss : "cross_entropy", "exact_cross_entropy", "margin" or "trades_kl"
        What is ascended. Float32 cross-entropy loses the true class's part of its gradient beyond a margin of about 17,
        and all of it beyond about 104, so FGSM on it fools fewer images of a very sure network than it could. Up to
        there "exact_cross_entropy" keeps all; the margin loss always moves.
    start : "clean", "uniform" or "gaussian"
        The image itself; uniform in the ball; a normal step of 0.001.
    restarts : int
        Runs from that many starts; an image that one run fools is not attacked again.

    Raises
    ------
    InputError
        If a number is not above 0, `eps` is above 1, or `loss` or `start` is unknown.

    Warns
    -----
    UserWarning
        If `steps * step < eps`: the attack cannot reach the ball's surface from its centre. On a call, if it moves no
        pixel, since all gradients are 0, and if the model's outputs look like probabilities instead of logits.

    Examples
    --------
    >>> Attack(eps=0.3, step=0.01, steps=40)
    Attack(eps=0.3, step=0.01, steps=40, loss='cross_entropy', start='uniform', restarts=1)
    """

    eps: float
    step: float
    steps: int
    loss: str = "cross_entropy"
    start: str = "uniform"
    restarts: int = 1

    def __post_init__(self) -> None:
        _checks.plain_numbers(self)
        _checks.radius(self.eps)
        _checks.positive("step", self.step)
        _checks.count("steps", self.steps)
        _checks.count("restarts", self.restarts)
        _checks.known("attack loss", self.loss, LOSSES)
        _checks.known("attack start", self.start, STARTS)
        if self.steps * self.step < self.eps * (1 - 1e-9):
            warnings.warn(
                f"{self.steps} steps of {self.step:g} move at most {self.steps * self.step:g}, "
                f"less than eps = {self.eps:g}: the attack is weaker than its ball suggests",
                stacklevel=3,
            )

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the adversarial images, the last iterate of each, shape (N, C, H, W).

        Parameters
        ----------
        model : nn.Module
            Maps images in [0, 1] to logits (N, K).
        x, y : (N, C, H, W) floating point in [0, 1], and (N,) int64
            Images and labels.
        generator : torch.Generator, optional
            For the random start, on any device; by default torch's global one.
        start : (N, C, H, W), optional
            First iterate of the first run instead of a random one; cut to the ball.

        Raises
        ------
        InputError
            If images leave [0, 1] or are not floating point, labels are out of range, the model cannot take them or
            gives NaN, no gradient reaches the images, or `start` has another shape.
        """
        _checks.images(x)
        if start is not None:
            _checks.tensor("the start", start)
        if start is not None and start.shape != x.shape:
            raise InputError(f"the start must have the images' shape {tuple(x.shape)}, got {tuple(start.shape)}")
        if not len(x):
            return x.detach().clone()
        with engine.prepared(model, x) as forward:
            _checks.labels(y, len(x), forward.classes)
            logits = forward(x[:LOOKED_AT])
            _checks.no_nan(logits)
            _checks.warn_of_probabilities(logits, stacklevel=3)
            x_adv = self.perturb(forward, x, y, generator=generator, start=start).contiguous()
        if torch.equal(x_adv, x):
            warnings.warn("the attack moved no pixel: the loss has a gradient of 0 at every image", stacklevel=2)
        return x_adv

    def perturb(
        self,
        forward: Forward,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
        shard: Shard | None = None,
    ) -> Tensor:
        """Do what a call does, unchecked, on any function from images to logits; `engine.prepared` makes the fastest.

        With `shard`, `x` and `y` are those rows of a larger batch, and start where they would start in all of it.
        """
        x, y = engine.laid_out(forward, x), engine.usual(y)
        result, rows = x.clone(), torch.arange(len(x), device=x.device)
        for run in range(self.restarts):
            first, start = (self._first(x, generator, shard) if start is None else start), None
            for part in engine.parts(forward, rows):
                result[part] = self._ascend(forward, x[part], y[part], first[part], self.steps)
            if run < self.restarts - 1:
                with torch.no_grad():
                    rows = rows[~engine.misread(forward(result[rows]), y[rows])]
            if not len(rows):
                break
        return result

    def survivors(
        self,
        forward: Forward,
        x: Tensor,
        y: Tensor,
        at: Sequence[int],
        *,
        among: Tensor | None = None,
        reading: Reading = "any",
        generators: Sequence[torch.Generator] | None = None,
        shard: Shard | None = None,
    ) -> Tensor:
        """Which images are still classified correctly after k steps, for each k of `at`: bool (len(at), N).

        One trajectory serves all k. Images outside `among` (bool (N,), by default all) are not attacked and count as
        lost; the others start where they would start without it. Each restart draws from a generator of its own, by
        default all from torch's global one; `shard` is that of `perturb`. With `reading` "any", an image counts as
        fooled at k once any iterate up to k, the start included, fools it, and leaves the batch; with "last", only
        iterate k counts.

        Under bfloat16 autocast, gradients are bfloat16's and decisions are float32's: an image that bfloat16 calls
        fooled is asked again, and at each k of `at` all are.
        """
        x, y = engine.laid_out(forward, x), engine.usual(y)
        alive = torch.ones(len(at), len(x), dtype=torch.bool, device=x.device)
        if among is not None:
            alive &= among
        read = self._right_up_to if reading == "any" else self._right_at
        for run in range(self.restarts):
            start = self._first(x, generators[run] if generators else None, shard)
            for rows in engine.parts(forward, alive.any(0).nonzero()[:, 0]):
                alive[:, rows] &= read(forward, x[rows], y[rows], at, start[rows])
        return alive

    def flat(self, forward: Forward, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> bool:
        """Whether the loss has a gradient of 0 at the first iterate of every image: no step moves anything."""
        x, y = engine.laid_out(forward, x), engine.usual(y)
        ball = self._ball(forward, x, y)
        start = self._first(x, generator).clamp(ball.low, ball.high)
        return not bool(self._gradient(forward, start, ball.target)[1].any())

    # --- the loop

    def _ascend(self, forward: Forward, x: Tensor, y: Tensor, start: Tensor, steps: int) -> Tensor:
        """The iterate after so many steps, (N, C, H, W)."""
        ball = self._ball(forward, x, y)
        x_adv = start.detach().clamp(ball.low, ball.high)
        step = engine.stepper(forward, self.loss, functools.partial(self._step, forward), (x_adv,), ball, steps)
        for _ in range(steps):
            (x_adv,) = step(x_adv)  # x <- clip(x + step * sign(dLoss/dx))
        return x_adv

    def _step(
        self, forward: Forward, x_adv: Tensor, low: Tensor, high: Tensor, target: Tensor, step: Tensor
    ) -> tuple[Tensor]:
        _, gradient = self._gradient(forward, x_adv, target)
        return (_moved(x_adv, gradient, low, high, step),)

    def _ball(self, forward: Forward, x: Tensor, y: Tensor) -> "_Ball":
        low, high = (x - self.eps).clamp_(min=0), (x + self.eps).clamp_(max=1)
        return _Ball(low, high, self._target(forward, x, y), x.new_full((), self.step))

    # --- what was fooled on the way

    def _right_at(self, forward: Forward, x: Tensor, y: Tensor, at: Sequence[int], start: Tensor) -> Tensor:
        """Which images iterate k leaves right, for each k: bool (len(at), N)."""
        x_adv, found = start, {}
        for made, k in itertools.pairwise((0, *sorted(set(at)))):
            x_adv = self._ascend(forward, x, y, x_adv, k - made)
            found[k] = ~engine.wrong(forward, x_adv, y)
        return torch.stack([found[k] for k in at])

    def _right_up_to(self, forward: Forward, x: Tensor, y: Tensor, at: Sequence[int], start: Tensor) -> Tensor:
        """Which images all iterates up to k leave right, for each k: bool (len(at), N)."""
        return self._first_fooled(forward, x, y, at, start) > torch.tensor(at, device=x.device)[:, None]

    def _first_fooled(self, forward: Forward, x: Tensor, y: Tensor, at: Sequence[int], start: Tensor) -> Tensor:
        """Number of the first iterate that fools, above `steps` for none: int64 (N,).

        What is fooled leaves the batch, after each step or, from a recorded loop, at each k of `at`.
        """
        rows = torch.arange(len(x), device=x.device)  # of the images still in the batch
        first = torch.full_like(rows, self.steps + 1)
        ball = self._ball(forward, x, y)
        batch = [start.detach().clamp(ball.low, ball.high), first, ball.low, ball.high, ball.target, y]
        recorded = engine.wanted(forward, x.device)
        for made, stop in itertools.pairwise(sorted({0, *at, self.steps} if recorded else range(self.steps + 1))):
            sure = recorded or made in at
            state, rest = (*batch[:2], rows.new_full((), made)), (*batch[2:], ball.step)
            look = functools.partial(self._look_and_step, forward, sure)
            step = engine.stepper(forward, f"{self.loss}, looking", look, state, rest, self.steps, few=True)
            for _ in range(made, stop):
                state = step(*state)
            batch[:2] = state[:2]
            first[rows] = batch[1]
            kept = batch[1] > self.steps
            if not bool(kept.all()):
                rows, batch = rows[kept], [t[kept] for t in batch]
            if not len(rows):
                return first
        first[rows[engine.wrong(forward, batch[0], batch[-1])]] = self.steps
        return first

    def _look_and_step(
        self, forward: Forward, sure: bool, x_adv: Tensor, first: Tensor, k: Tensor, low: Tensor, high: Tensor,
        target: Tensor, y: Tensor, step: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """A step from iterate k, which is the first that fools an image where none before it did."""
        logits, gradient = self._gradient(forward, x_adv, target)
        fooled = engine.wrong(forward, x_adv, y, logits, sure=sure)
        return _moved(x_adv, gradient, low, high, step), first.where(~fooled, first.minimum(k)), k + 1

    def _gradient(self, forward: Forward, x_adv: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K), detached, and the loss's gradient (N, C, H, W); the weights get none."""
        with torch.enable_grad():
            x_adv = x_adv.detach().requires_grad_()
            logits = forward(x_adv)
            loss = LOSSES[self.loss](*((target, logits) if self.loss == "trades_kl" else (logits, target)))
            return logits.detach(), _slope(loss, x_adv)

    def _target(self, forward: Forward, x: Tensor, y: Tensor) -> Tensor:
        """What the loss compares with: the label, or for TRADES the clean image's logits, computed once."""
        if self.loss != "trades_kl":
            return y
        with torch.no_grad():
            return forward(x)

    def _first(self, x: Tensor, generator: torch.Generator | None, shard: Shard | None = None) -> Tensor:
        """The first iterate, before it is cut to the ball; drawn on the generator's device, for the whole batch."""
        if self.start == "clean":
            return x
        draw = torch.rand if self.start == "uniform" else torch.randn
        device = generator.device if generator else x.device
        shape = (shard.of, *x.shape[1:]) if shard else x.shape
        one = functools.partial(draw, generator=generator, device=device, dtype=x.dtype)
        if generator and self.start == "gaussian":  # normal numbers come in blocks: each image draws for itself
            noise = torch.stack([one(shape[1:]) for _ in range(shape[0])]).to(x.device) if shape[0] else x
        else:
            noise = one(shape).to(x.device)
        noise = noise[shard.rows] if shard else noise
        return x + (self.eps * (2 * noise - 1) if self.start == "uniform" else GAUSSIAN_SCALE * noise)


def _slope(loss: Tensor, x: Tensor) -> Tensor:
    """Gradient of the summed loss; InputError where none comes to the images."""
    gradient, reason = None, "is the network quantised, or does it round or detach what it is given?"
    try:
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss.sum(), x, allow_unused=True)
    except RuntimeError as error:
        if "checkpoint" not in str(error):
            raise
        reason = str(error).splitlines()[0]
    if gradient is None:
        raise InputError(f"no gradient reaches the images: {reason}")
    return gradient


def _moved(x_adv: Tensor, gradient: Tensor, low: Tensor, high: Tensor, step: Tensor) -> Tensor:
    """`clip(x + step * sign(gradient))`, into the ball from `low` to `high`."""
    return x_adv.add(gradient.sign().mul_(step)).clamp_(low, high)


def FGSM(eps: float) -> Attack:
    """Fast gradient sign method: one step of length eps from the clean image (Goodfellow et al. 2015).

    Examples
    --------
    >>> FGSM(8 / 255).steps
    1
    """
    return Attack(eps, step=eps, steps=1, start="clean")


def PGD(eps: float, step: float, steps: int, *, restarts: int = 1) -> Attack:
    """Projected gradient descent on the cross-entropy, uniform random start (Madry et al. 2018).

    x_0 = x + U(-eps, eps); x_{k+1} = the point of the ball nearest to x_k + step * sign(gradient of the loss at x_k),
    the ball being all images in [0, 1] that differ from x by at most eps anywhere.

    Parameters
    ----------
    eps, step : float
        Radius of the ball, at most 1, and length of a step, both above 0, in units of [0, 1]: 8/255, not 8.
    steps, restarts : int
        At least 1; see `Attack`.

    Raises
    ------
    InputError
        If a number is out of range.

    Examples
    --------
    >>> PGD(8 / 255, 2 / 255, 10).loss
    'cross_entropy'
    """
    return Attack(eps, step, steps, restarts=restarts)


def CW(eps: float, step: float, steps: int, *, restarts: int = 1) -> Attack:
    """The same loop on the margin loss of Carlini and Wagner (2017), as Madry et al. (2018) use it.

    The loss is the largest wrong logit minus that of the true class, see `losses.margin`. Arguments and what is raised
    as for `PGD`.
    """
    return Attack(eps, step, steps, loss="margin", restarts=restarts)


def trades_inner(attack: Attack) -> Attack:
    """The inner attack of TRADES in the ball of `attack`: KL to the clean prediction, small normal start."""
    return derived(attack, loss="trades_kl", start="gaussian")


def scaled(attack: Attack, fraction: float) -> Attack:
    """`attack` with radius and step both multiplied by `fraction`, above 0; for the ramp at the start of training."""
    return derived(attack, eps=attack.eps * fraction, step=attack.step * fraction)


def derived(attack: Attack, **changes: object) -> Attack:
    """`attack` with some attributes changed, neither checked nor warned of again."""
    other = copy.copy(attack)
    for name, value in changes.items():
        object.__setattr__(other, name, value)
    return other
