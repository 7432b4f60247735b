"""One loop that moves images along a gradient in a ball; FGSM, PGD-k, CW-k and TRADES' inner loop are its settings."""

import copy
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

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
GAUSSIAN_SCALE = 0.001  # of the start of TRADES, in units of [0, 1]
TO_TARGETS = " to targets"
LOOKED_AT = 8  # images of which a call looks at the logits before it attacks


# --- balls -----------------------------------------------------------------------------------------------------------


def _box(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Lowest and highest images of the L∞ balls around images (N, ...) in [0, 1]."""
    return (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)


def _sphere(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Centres (N, ...) and radii (N, 1, ...) of the L2 balls around images."""
    return x, x.new_full((len(x), *(1 for _ in x.shape[1:])), eps)


def _inside(x_adv: Tensor, x: Tensor, radius: Tensor) -> Tensor:
    """`x_adv`, changed in place to the nearest point of the L2 ball, then cut to [0, 1], which leads further inside."""
    x_adv.sub_(x)
    return x_adv.mul_((radius / _length(x_adv)).clamp_(max=1)).add_(x).clamp_(0, 1)


def _unit(gradient: Tensor) -> Tensor:
    """Gradients (N, ...) scaled to L2 length 1, however small or large they are; 0 stays 0, NaN counts as 0."""
    gradient = gradient.nan_to_num(nan=0.0)
    tiny = torch.finfo(gradient.dtype).tiny
    gradient = gradient / gradient.abs().amax(_pixels(gradient), keepdim=True).clamp_(min=tiny)  # or squares vanish
    return gradient.div_(_length(gradient).clamp_(min=tiny))


def _length(x: Tensor) -> Tensor:
    """L2 length of each of (N, ...), shape (N, 1, ...)."""
    return torch.linalg.vector_norm(
        x, dim=_pixels(x), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32)
    ).to(x.dtype)


def _pixels(x: Tensor) -> list[int]:
    return list(range(1, x.ndim))


class Norm(NamedTuple):
    """What makes a ball: how wide images of so many pixels can be apart, and three functions for the loop."""

    name: str
    width: Callable[[int], float]
    bounds: Callable[[Tensor, float], tuple[Tensor, Tensor]]  # of the balls around images, for `within`
    within: Callable[[Tensor, Tensor, Tensor], Tensor]  # an image, changed in place into its ball and into [0, 1]
    steepest: Callable[[Tensor], Tensor]  # the step of length 1 that a gradient rises most along


NORMS = {
    "linf": Norm("L∞", lambda pixels: 1.0, _box, Tensor.clamp_, Tensor.sign),
    "l2": Norm("L2", math.sqrt, _sphere, _inside, _unit),
}


class _Ball(NamedTuple):
    """What a step needs beside the iterate: the two bounds of `Norm`, what the loss compares with, a length."""

    low: Tensor
    high: Tensor
    target: Tensor
    step: Tensor


# --- the attack ------------------------------------------------------------------------------------------------------


@_checks.hinted
@dataclass(frozen=True)
class Attack:
    """Projected gradient ascent in the L∞ or L2 ball around each image, cut to [0, 1] (Madry et al. 2018).

    `x <- clip(x + step * direction)`, `steps` times, in the dtype of the images, to whose rounding the ball is exact.
    The direction is the sign of the loss's gradient, or for L2 the gradient at length 1. The model is seen in
    evaluation mode and left as it was: modes, buffers, `requires_grad` and gradients of the weights.

    Attributes
    ----------
    eps, step : float
        Radius of the ball and length of a step, in units of [0, 1]. An L2 length is that of all pixels and channels of
        an image together, so images of P values are up to sqrt(P) apart.
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
    norm : "linf" or "l2"
        Which distance the ball is of. The paper's is L∞.

    Raises
    ------
    InputError
        If a number is not above 0, `eps` is above 1 in L∞, or `loss`, `start` or `norm` is unknown; for an argument
        that other libraries call otherwise (`alpha`, say) with our name for it.

    Warns
    -----
    UserWarning
        If `steps * step < eps`: the attack cannot reach the ball's surface from its centre. On a call, if the gradient
        is NaN at an image or 0 at many, with their numbers; if the model's outputs look like probabilities instead of
        logits; if what it says of an image depends on the others in the batch.

    Examples
    --------
    >>> Attack(eps=0.3, step=0.01, steps=40)
    Attack(eps=0.3, step=0.01, steps=40, loss='cross_entropy', start='uniform', restarts=1, norm='linf')
    """

    eps: float
    step: float
    steps: int
    loss: str = "cross_entropy"
    start: str = "uniform"
    restarts: int = 1
    norm: str = "linf"

    def __post_init__(self) -> None:
        _checks.plain_numbers(self)
        _checks.known("norm", self.norm, NORMS)
        (_checks.radius if self.norm == "linf" else functools.partial(_checks.positive, "eps"))(self.eps)
        _checks.positive("step", self.step)
        _checks.count("steps", self.steps)
        _checks.count("restarts", self.restarts)
        _checks.known("attack loss", self.loss, LOSSES)
        _checks.known("attack start", self.start, STARTS)
        if self.steps * self.step < self.eps * (1 - 1e-9):
            _checks.warn(
                f"{self.steps} steps of {self.step:g} move at most {self.steps * self.step:g}, "
                f"less than eps = {self.eps:g}: the attack is weaker than its ball suggests"
            )

    @_checks.hinted
    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        target: Tensor | None = None,
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
        target : (N,) int64, optional
            What the model is to say instead of the labels, another class than the label for each image. The loss
            of these is descended, and with restarts an image is attacked until the model says its target.
        generator : torch.Generator, optional
            For the random start, on any device; by default torch's global one.
        start : (N, C, H, W), optional
            First iterate of the first run instead of a random one; cut to the ball.

        Raises
        ------
        InputError
            If images leave [0, 1] or are not floating point, labels or targets are out of range or alike, the ball is
            wider than images can be apart, the model cannot take them or gives NaN, no gradient reaches the images,
            or `start` has another shape.

        Examples
        --------
        >>> import aalp_lib as aalp
        >>> model = aalp.pretrained("mnist/raw")
        >>> x, y = next(aalp.load("mnist-sample").test.batches(8))
        >>> seven = torch.where(y == 7, 3, 7)  # a 7 is to become a 3, all others a 7
        >>> x_adv = aalp.PGD(eps=3.0, step=0.3, steps=40, norm="l2")(model, x, y, target=seven)
        >>> bool((model(x_adv).argmax(1) == seven).all()), bool((x_adv - x).flatten(1).norm(dim=1).max() < 3.001)
        (True, True)
        """
        x = _checks.images(x)
        start = None if start is None else _checks.start(start, x)
        _checks.generator(generator)
        if not len(x):
            return x.detach().clone()
        attack = self.toward(target).fitting(x)
        with engine.prepared(model, x, look=False) as forward:
            # for one step of few images, the pass of one image alone would take long
            logits = forward.look(x[:LOOKED_AT], company=self.steps * self.restarts * len(x) > engine.PART // 4)
            _checks.labels(y, len(x), forward.classes)
            sought = _checks.target(target, y, forward.classes)
            _checks.no_nan(logits)
            _checks.warn_of_probabilities(logits)
            engine.warn_of_company(forward)
            blind = None if engine.wanted(forward, x.device) else torch.zeros_like(y, dtype=torch.int8)
            x_adv = attack.perturb(forward, x, sought, generator=generator, start=start, blind=blind).contiguous()
        if blind is not None:
            _checks.warn_of_blind("the attack", blind)
        elif torch.equal(x_adv, x):
            _checks.warn("the attack moved no pixel: the loss has a gradient of 0 or NaN at every image")
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
        blind: Tensor | None = None,
    ) -> Tensor:
        """Do what a call does, unchecked, on any function from images to logits; `engine.prepared` makes the fastest.

        With `shard`, `x` and `y` are those rows of a larger batch, and start where they would start in all of it. Into
        `blind`, int8 (N,), is written 1 for each image whose first gradient is 0, and 2 where it is NaN.
        """
        x, y = engine.laid_out(forward, x), engine.usual(y)
        result, rows = x.clone(), torch.arange(len(x), device=x.device)
        for run in range(self.restarts):
            first, start = (self._first(x, generator, shard) if start is None else start), None
            for part in engine.parts(forward, rows):
                result[part] = self._ascend(forward, x[part], y[part], first[part], self.steps, _At.of(blind, part))
            if run < self.restarts - 1:
                with torch.no_grad():
                    rows = rows[~self._fooled(forward(result[rows]), y[rows])]
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
        blind: Tensor | None = None,
    ) -> Tensor:
        """Which images are still classified correctly after k steps, for each k of `at`: bool (len(at), N).

        One trajectory serves all k. Images outside `among` (bool (N,), by default all) are not attacked and count as
        lost; the others start where they would start without it. Each restart draws from a generator of its own, by
        default all from torch's global one; `shard` and `blind` are those of `perturb`. With `reading` "any", an image
        counts as fooled at k once any iterate up to k, the start included, fools it, and leaves the batch; with "last",
        only iterate k counts. After `toward`, `y` holds targets, and only what is taken for its target is fooled.

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
                alive[:, rows] &= read(forward, x[rows], y[rows], at, start[rows], _At.of(blind, rows))
        return alive

    # --- what it is

    @property
    def ball(self) -> str:
        """Norm, radius, and whether it is led to targets, in words: where a number that is measured with it belongs."""
        return f"{NORMS[self.norm].name} {levels(self.eps)}" + TO_TARGETS * self._seeking

    def described(self) -> dict[str, Any]:
        """As records keep it; L∞, which all records are of that name no norm, stays unnamed."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("norm", "linf")}

    def toward(self, target: Tensor | None) -> "Attack":
        """This attack, or with targets the one that descends: labels are then what the model is to say."""
        if target is None:
            return self
        if self.loss == "trades_kl":
            raise InputError("loss 'trades_kl' knows no classes, so it cannot be led to a target; use another loss")
        return derived(self, step=-self.step)

    def fitting(self, images: Tensor) -> "Attack":
        """This attack; InputError if its ball is wider than images (N, ...) like these can be apart."""
        width = NORMS[self.norm].width(images[0].numel())
        if self.eps > width * (1 + 1e-6):
            raise InputError(
                f"eps must be at most {width:.4g}, since such images are no further apart, got {self.eps:g}; "
                "pixels are in [0, 1]: write 128/255, not 128"
            )
        return self

    @property
    def _seeking(self) -> bool:
        return self.step < 0

    def _fooled(self, logits: Tensor, y: Tensor) -> Tensor:
        """Where the attack has what it is after, bool (N,): another class than the label, or the target."""
        return engine.misread(logits, y) != self._seeking

    # --- the loop

    def _ascend(
        self, forward: Forward, x: Tensor, y: Tensor, start: Tensor, steps: int, blind: "_At | None" = None
    ) -> Tensor:
        """The iterate after so many steps, (N, C, H, W)."""
        ball = self._ball(forward, x, y)
        x_adv = self._within(start, ball)
        if blind is not None and steps:
            (x_adv,), steps = self._step(forward, x_adv, *ball, blind=blind), steps - 1
        kind = f"{self.loss} {self.norm}"
        step = engine.stepper(forward, kind, functools.partial(self._step, forward), (x_adv,), ball, steps)
        for _ in range(steps):
            (x_adv,) = step(x_adv)  # x <- clip(x + step * direction)
        return x_adv

    def _step(
        self, forward: Forward, x_adv: Tensor, low: Tensor, high: Tensor, target: Tensor, step: Tensor,
        blind: "_At | None" = None,
    ) -> tuple[Tensor]:  # fmt: skip
        _, gradient = self._gradient(forward, x_adv, target)
        if blind is not None:
            blind.note(gradient)
        return (self._moved(x_adv, gradient, low, high, step),)

    def _ball(self, forward: Forward, x: Tensor, y: Tensor) -> "_Ball":
        bounds = NORMS[self.norm].bounds(x, self.eps)
        return _Ball(*bounds, self._target(forward, x, y), x.new_full((), self.step))

    def _within(self, start: Tensor, ball: _Ball) -> Tensor:
        return NORMS[self.norm].within(start.detach().clone(), ball.low, ball.high)

    def _moved(self, x_adv: Tensor, gradient: Tensor, low: Tensor, high: Tensor, step: Tensor) -> Tensor:
        """`clip(x + step * direction)`, into the ball."""
        norm = NORMS[self.norm]
        return norm.within(x_adv.add(norm.steepest(gradient).mul_(step)), low, high)

    # --- what was fooled on the way

    def _right_at(
        self, forward: Forward, x: Tensor, y: Tensor, at: Sequence[int], start: Tensor, blind: "_At | None"
    ) -> Tensor:
        """Which images iterate k leaves right, for each k: bool (len(at), N)."""
        x_adv, found = start, {}
        for made, k in itertools.pairwise((0, *sorted(set(at)))):
            x_adv = self._ascend(forward, x, y, x_adv, k - made, None if made else blind)
            found[k] = ~engine.wrong(forward, x_adv, y, fooled=self._fooled)
        return torch.stack([found[k] for k in at])

    def _right_up_to(
        self, forward: Forward, x: Tensor, y: Tensor, at: Sequence[int], start: Tensor, blind: "_At | None"
    ) -> Tensor:
        """Which images all iterates up to k leave right, for each k: bool (len(at), N)."""
        first = self._first_fooled(forward, x, y, at, start, blind)
        return first > torch.tensor(at, device=x.device)[:, None]

    def _first_fooled(
        self, forward: Forward, x: Tensor, y: Tensor, at: Sequence[int], start: Tensor, blind: "_At | None"
    ) -> Tensor:
        """Number of the first iterate that fools, above `steps` for none: int64 (N,).

        What is fooled leaves the batch, after each step or, from a recorded loop, at each k of `at`.
        """
        rows = torch.arange(len(x), device=x.device)  # of the images still in the batch
        first = torch.full_like(rows, self.steps + 1)
        ball = self._ball(forward, x, y)
        batch = [self._within(start, ball), first, ball.low, ball.high, ball.target, y]
        recorded = engine.wanted(forward, x.device)
        stops = {0, *at, self.steps} | ({1} if blind is not None else set())
        for made, stop in itertools.pairwise(sorted(stops) if recorded else range(self.steps + 1)):
            sure = recorded or made in at
            state, rest = (*batch[:2], rows.new_full((), made)), (*batch[2:], ball.step)
            if made == 0 and blind is not None:
                state = functools.partial(self._look_and_step, forward, sure, blind=blind)(*state, *rest)
            else:
                look = functools.partial(self._look_and_step, forward, sure)
                kind = f"{self.loss} {self.norm}, looking for {self._seeking}"
                step = engine.stepper(forward, kind, look, state, rest, self.steps, few=True)
                for _ in range(made, stop):
                    state = step(*state)
            batch[:2] = state[:2]
            first[rows] = batch[1]
            kept = batch[1] > self.steps
            if not bool(kept.all()):
                rows, batch = rows[kept], [t[kept] for t in batch]
            if not len(rows):
                return first
        first[rows[engine.wrong(forward, batch[0], batch[-1], fooled=self._fooled)]] = self.steps
        return first

    def _look_and_step(
        self, forward: Forward, sure: bool, x_adv: Tensor, first: Tensor, k: Tensor, low: Tensor, high: Tensor,
        target: Tensor, y: Tensor, step: Tensor, blind: "_At | None" = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """A step from iterate k, which is the first that fools an image where none before it did."""
        logits, gradient = self._gradient(forward, x_adv, target)
        if blind is not None:
            blind.note(gradient)
        fooled = engine.wrong(forward, x_adv, y, logits, sure=sure, fooled=self._fooled)
        moved = self._moved(x_adv, gradient, low, high, step)
        return moved, first.where(~fooled, first.minimum(k)), k + 1

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
        pixels, count, box = x.shape[1:], shard.of if shard else len(x), (self.start, self.norm) == ("uniform", "linf")
        # the first P coordinates of a point that lies evenly on a sphere in P + 2 dimensions lie evenly in the ball
        shape = pixels if self.start == "gaussian" or box else torch.Size([pixels.numel() + 2])
        dtype = x.dtype if shape is pixels else torch.promote_types(x.dtype, torch.float32)
        device = generator.device if generator else x.device
        draw = functools.partial(torch.rand if box else torch.randn, generator=generator, device=device, dtype=dtype)
        if generator and count and not box:  # normal numbers come in blocks: each image draws for itself
            noise = torch.stack([draw(shape) for _ in range(count)]).to(x.device)
        else:
            noise = draw((count, *shape)).to(x.device)
        noise = noise[shard.rows] if shard else noise
        if self.start == "gaussian":
            return x + GAUSSIAN_SCALE * noise
        if box:
            return x + self.eps * (2 * noise - 1)
        return x + self.eps * (noise / _length(noise))[:, :-2].view(x.shape).to(x.dtype)


class _At(NamedTuple):
    """Where to write which images of a batch an attack cannot see a way for: rows of int8 (N,)."""

    blind: Tensor
    rows: Tensor

    @classmethod
    def of(cls, blind: Tensor | None, rows: Tensor) -> "_At | None":
        return None if blind is None else cls(blind, rows)

    def note(self, gradient: Tensor) -> None:
        """1 where a gradient of (N, ...) is 0, 2 where it is not a number."""
        flat = gradient.flatten(1)
        self.blind[self.rows] = torch.where(flat.isnan().any(1), 2, ~flat.any(1)).to(torch.int8)


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


@_checks.hinted
def FGSM(eps: float, *, norm: str = "linf") -> Attack:
    """Fast gradient sign method: one step of length eps from the clean image (Goodfellow et al. 2015).

    With `norm` "l2" it is the fast gradient method: the step goes along the gradient itself.

    Examples
    --------
    >>> FGSM(8 / 255).steps
    1
    """
    return Attack(eps, step=eps, steps=1, start="clean", norm=norm)


@_checks.hinted
def PGD(eps: float, step: float, steps: int, *, restarts: int = 1, norm: str = "linf") -> Attack:
    """Projected gradient descent on the cross-entropy, uniform random start (Madry et al. 2018).

    x_0 = x + U(-eps, eps); x_{k+1} = the point of the ball nearest to x_k + step * sign(gradient of the loss at x_k),
    the ball being all images in [0, 1] that differ from x by at most eps anywhere. In L2 x_0 is uniform in that ball,
    and a step goes along the gradient itself, `step` long.

    Parameters
    ----------
    eps, step : float
        Radius of the ball, in L∞ at most 1, and length of a step, both above 0, in units of [0, 1]: 8/255, not 8.
    steps, restarts : int
        At least 1; see `Attack`.
    norm : "linf" or "l2"

    Raises
    ------
    InputError
        If a number is out of range, or the norm unknown.

    Examples
    --------
    >>> PGD(8 / 255, 2 / 255, 10).loss
    'cross_entropy'
    >>> PGD(128 / 255, 32 / 255, 10, norm="l2").ball
    'L2 128/255'
    """
    return Attack(eps, step, steps, restarts=restarts, norm=norm)


@_checks.hinted
def CW(eps: float, step: float, steps: int, *, restarts: int = 1, norm: str = "linf") -> Attack:
    """The same loop on the margin loss of Carlini and Wagner (2017), as Madry et al. (2018) use it.

    The loss is the largest wrong logit minus that of the true class, see `losses.margin`; with a target, the target's
    minus the largest other. Arguments and what is raised as for `PGD`.
    """
    return Attack(eps, step, steps, loss="margin", restarts=restarts, norm=norm)


__test__ = {make.__name__: make.__doc__ for make in (FGSM, PGD)}  # doctest passes by what is decorated


def levels(value: float) -> str:
    """A length in units of [0, 1], as a fraction of 255 where it is no short number but one of grey levels.

    Examples
    --------
    >>> levels(8 / 255), levels(0.2)
    ('8/255', '0.2')
    """
    grey = value * 255
    return f"{grey:.0f}/255" if abs(grey - round(grey)) < 1e-6 and round(value, 3) != value else f"{value:g}"


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
