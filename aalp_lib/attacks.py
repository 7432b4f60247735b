"""One loop that ascends a loss inside an L∞ ball; FGSM, PGD-k, CW-k and the inner loop of TRADES are settings of it."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from aalp_lib import _checks, losses
from aalp_lib._checks import InputError
from aalp_lib.engine import folding, graphs
from aalp_lib.engine.distributed import Shard
from aalp_lib.models import channels_last, class_count, evaluating

Reading = Literal["any", "last"]
Forward = Callable[[Tensor], Tensor]
# Called with an iterate's number k, its images, logits and labels; returns which rows to go on with, or None for all.
Visit = Callable[[int, Tensor, Tensor, Tensor], Tensor | None]

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": losses.cross_entropy,
    "exact_cross_entropy": losses.exact_cross_entropy,
    "margin": losses.margin,
    "trades_kl": losses.trades_kl,  # its second argument is not the label but the clean image's logits
}
STARTS = ("clean", "uniform", "gaussian")
GAUSSIAN_SCALE = 0.001  # of the start of TRADES, in units of [0, 1]


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
        If `steps * step < eps`: the attack cannot reach the ball's surface from its centre.

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
            If images leave [0, 1] or are not floating point, labels are out of range, the model cannot take them, or
            `start` has another shape.
        """
        _checks.images(x)
        if start is not None and start.shape != x.shape:
            raise InputError(f"the start must have the images' shape {tuple(x.shape)}, got {tuple(start.shape)}")
        with evaluating(model), channels_last(model):
            if len(x):
                _checks.labels(y, len(x), class_count(model, x))
            return self.perturb(model, laid_out(x), y, generator=generator, start=start).contiguous()

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
        """Do what a call does, unchecked, on any function from images to logits; modes are the caller's affair.

        With `shard`, `x` and `y` are those rows of a larger batch, and start where they would start in all of it.
        """
        x = x.detach()
        result, rows = x.clone(), torch.arange(len(x), device=x.device)
        for run in range(self.restarts):
            first, start = (self._first(x, generator, shard) if start is None else start), None
            for part in folding.parts(forward, rows):
                result[part] = self._ascend(forward, x[part], y[part], first[part])
            if run == self.restarts - 1:
                break
            with torch.no_grad():
                rows = rows[forward(result[rows]).argmax(1) == y[rows]]
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
        alive = torch.ones(len(at), len(x), dtype=torch.bool, device=x.device)
        if among is not None:
            alive &= among
        read = self._read_any if reading == "any" else self._read_last
        for run in range(self.restarts):
            start = self._first(x, generators[run] if generators else None, shard)
            for rows in folding.parts(forward, alive.any(0).nonzero()[:, 0]):
                alive[:, rows] &= read(forward, x[rows], y[rows], at, start[rows])
        return alive

    def _read_any(self, forward: Forward, x: Tensor, y: Tensor, at: Sequence[int], start: Tensor) -> Tensor:
        fooled = self._first_fooled_recorded(forward, x, y, at, start)
        if fooled is None:
            fooled = self._first_fooled(forward, x, y, at, start)
        return fooled > torch.tensor(at, device=x.device)[:, None]

    def _first_fooled(self, forward: Forward, x: Tensor, y: Tensor, at: Sequence[int], start: Tensor) -> Tensor:
        """Number of the first iterate that fools, above `steps` for none: int64 (N,)."""
        rows = torch.arange(len(x), device=x.device)  # of the images still in the batch
        fooled = torch.full((len(x),), self.steps + 1, device=x.device)  # number of the first iterate that fools

        def visit(k: int, x_adv: Tensor, logits: Tensor, labels: Tensor) -> Tensor | None:
            nonlocal rows
            right = logits.argmax(1) == labels
            if logits.dtype != x.dtype:
                asked = torch.ones_like(right) if k in at else ~right
                right[asked] = _right(forward, x_adv[asked], labels[asked])
            if bool(right.all()):
                return None
            fooled[rows[~right]] = k
            rows = rows[right]
            return right

        self._ascend(forward, x, y, start, visit)
        return fooled

    def _first_fooled_recorded(
        self, forward: Forward, x: Tensor, y: Tensor, at: Sequence[int], start: Tensor
    ) -> Tensor | None:
        """The same from a recorded loop, if there is one; what was fooled leaves the batch at each k of `at`."""
        if not graphs.wanted(forward, x.device):
            return None
        low, high = (x - self.eps).clamp_(min=0), (x + self.eps).clamp_(max=1)
        x_adv, target = start.clamp(low, high), self._target(forward, x, y)
        fooled = torch.full((len(x),), self.steps + 1, device=x.device)
        rows, reached = torch.arange(len(x), device=x.device), 0
        for k in sorted({*at, self.steps}):
            if not len(rows):
                break
            padded = rows[torch.arange(_few_sizes(len(rows)), device=x.device) % len(rows)]
            at_hand, its_y, its_target = laid_out(x_adv[padded]), y[padded], target[padded]
            loop = self._recorded(forward, at_hand, its_y, its_target, decides=True)
            if loop is None:
                return None
            loop.begin(at_hand, low[padded], high[padded], its_y, its_target, self.step)
            loop.k.fill_(reached)
            loop.fooled.fill_(self.steps + 1)
            for _ in range(k - reached):
                loop.advance()
            right = _right(forward, loop.x_adv, loop.y)  # iterate k itself
            found = torch.where(right, loop.fooled, loop.fooled.clamp(max=k))[: len(rows)]
            fooled[rows], x_adv[rows] = found, loop.x_adv[: len(rows)]
            rows, reached = rows[found > self.steps], k
        return fooled

    def _recorded(
        self, forward: Forward, x: Tensor, y: Tensor, target: Tensor, decides: bool = False
    ) -> graphs.Loop | None:
        def decide(x_adv: Tensor, logits: Tensor) -> Tensor:
            return logits if logits.dtype == x_adv.dtype else _plain(forward, x_adv)

        def gradient(x_adv: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            return self._gradient(forward, x_adv, target)

        if not (isinstance(forward, nn.Module) and graphs.wanted(forward, x.device)):
            return None
        return graphs.loop_for(forward, self.loss, gradient, decide if decides else None, (x, y, target), self.steps)

    def _read_last(self, forward: Forward, x: Tensor, y: Tensor, at: Sequence[int], start: Tensor) -> Tensor:
        right = torch.empty(len(at), len(x), dtype=torch.bool, device=x.device)

        def visit(k: int, x_adv: Tensor, logits: Tensor, labels: Tensor) -> None:
            if k in at:
                found = logits.argmax(1) == labels if logits.dtype == x.dtype else _right(forward, x_adv, labels)
                right[[row for row, steps in enumerate(at) if steps == k]] = found

        self._ascend(forward, x, y, start, visit)
        return right

    def _ascend(self, forward: Forward, x: Tensor, y: Tensor, start: Tensor, visit: Visit | None = None) -> Tensor:
        """The loop. `visit` sees every iterate, the first and the last too, and may drop rows from the batch."""
        x = x.detach()
        low, high = (x - self.eps).clamp_(min=0), (x + self.eps).clamp_(max=1)
        x_adv = start.detach().clamp(low, high)
        target = self._target(forward, x, y)
        if visit is None and (loop := self._recorded(forward, x_adv, y, target)) is not None:
            loop.begin(x_adv, low, high, y, target, self.step)
            for _ in range(self.steps):
                loop.advance()
            return loop.x_adv.clone()
        with folding.network(forward):
            for k in range(self.steps):
                if not len(x_adv):
                    return x_adv
                logits, gradient = self._gradient(forward, x_adv, target)
                kept = visit(k, x_adv, logits, y) if visit else None
                if kept is not None:
                    x_adv, gradient, low, high, y, target = (t[kept] for t in (x_adv, gradient, low, high, y, target))
                x_adv = x_adv.add(gradient.sign(), alpha=self.step).clamp_(low, high)
        if visit and len(x_adv):
            with torch.no_grad():
                visit(self.steps, x_adv, forward(x_adv), y)
        return x_adv

    def _gradient(self, forward: Forward, x_adv: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K), detached, and the loss's gradient (N, C, H, W); the weights get none."""
        with torch.enable_grad():
            x_adv = x_adv.detach().requires_grad_()
            logits = forward(x_adv)
            loss = LOSSES[self.loss](*((target, logits) if self.loss == "trades_kl" else (logits, target)))
            (gradient,) = torch.autograd.grad(loss.sum(), x_adv)
        return logits.detach(), gradient

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
        noise = draw(shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
        noise = noise[shard.rows] if shard else noise
        return x + (self.eps * (2 * noise - 1) if self.start == "uniform" else GAUSSIAN_SCALE * noise)


def laid_out(x: Tensor) -> Tensor:
    """Images (N, C, H, W) in channels-last memory, any other tensor as it is."""
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x


def _right(forward: Forward, x: Tensor, y: Tensor) -> Tensor:
    """Whether images are classified correctly, bool (N,), decided without autocast, in the precision of the weights."""
    return _plain(forward, x).argmax(1) == y if len(x) else torch.ones_like(y, dtype=torch.bool)


def _plain(forward: Forward, x: Tensor) -> Tensor:
    """Logits (N, K) without autocast."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return forward(x)


def _few_sizes(needed: int) -> int:
    """`needed`, rounded up to one of at most eight sizes an octave: each size is recorded once."""
    unit = max(32, (1 << (needed - 1).bit_length()) >> 4)
    return -(-needed // unit) * unit


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
