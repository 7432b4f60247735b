"""Graders for the book's exercises: each takes the reader's answer and prints whether it is right, or what is wrong.

Some questions have one right answer, which is compared with it and with the wrong ones that people give. The others are
open experiments: the answer is measured under a budget and printed in a scoreboard beside what the chapter used. A
grader returns nothing and lets no exception out: the answer's own errors become a sentence.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp

from aalp_lib import contributions, data, losses, models, taylor, train
from aalp_lib.attacks import CW, FGSM, PGD
from aalp_lib.models import Classifier
from aalp_lib.zoo import pretrained

Answer = Callable[..., Any]
Foreseen = tuple[Tensor, str]  # what a known mistake gives on the same input, and what to say of it
EPS = 0.3  # of the attacks in the experiments
GRADIENTS = 20  # an image, for the attack of chapter 1
KEPT = 32  # of AALP's 256 features, in chapter 6


# --- chapter 1 -------------------------------------------------------------------------------------------------------


def steps_to_cross(answer: Any) -> None:
    """Grade the number of steps of 0.01 that reach any point of a ball of radius 0.3 from any start in it: 60."""
    _grade_number(
        answer,
        60,
        {
            30: "that is enough from the centre; a random start may lie on the opposite side",
            10: "ten steps of 0.01 move a pixel by at most 0.1",
            61: "60 steps of 0.01 are 0.6, exactly the diameter",
            40: "40 steps of 0.01 move a pixel by 0.4; from one side to the other it is 0.6",
        },
    )


def fool(answer: Answer) -> None:
    """Measure `answer(model, x, y, eps)`: attacked images for AALP's network, 20 gradients an image.

    The scoreboard counts how many of 100 digits are still right.
    """
    x, y = _digits(100)
    network = pretrained("mnist/aalp")

    def left(attack: Answer) -> int:
        body = _Counted(network.body, (GRADIENTS + 1) * len(y))  # one look more, to see what came of it
        x_adv = attack(Classifier(body, network.head, (0.1307,), (0.3081,)).eval(), x.clone(), y, EPS)
        return _right(network, _allowed(x_adv, x), y)

    rivals = {
        "FGSM": lambda model, x, y, eps: FGSM(eps)(model, x, y),
        "PGD-20, steps of 0.05": lambda model, x, y, eps: PGD(eps, 0.05, 20)(model, x, y, generator=_seeded(0)),
    }
    _measure(lambda: left(answer), {name: left(attack) for name, attack in rivals.items()}, "of 100 digits still right")


# --- chapter 2 -------------------------------------------------------------------------------------------------------


def plateau(answer: Any) -> None:
    """Grade the cross-entropy of a constant answer over 100 classes: log 100."""
    _grade_number(
        answer,
        math.log(100),
        {
            math.log(10): "that is log 10, for ten classes; here there are 100",
            math.log2(100): "that is in bits; a cross-entropy in PyTorch is in nats, the natural logarithm",
            2.0: "that is the decimal logarithm; a cross-entropy is in nats, the natural one",
            0.01: "that is the probability; the loss is minus its logarithm",
            -math.log(100): "the sign: a loss is minus a log-probability",
        },
    )


def off_the_plateau(answer: Any) -> None:
    """Measure `answer`, a dict of `rate` and `ramp`: a narrow LeNet trained for two epochs on the bundled digits.

    The scoreboard has the loss on attacked validation digits at full radius; log 10 is a constant answer.
    """
    digits, attack = _sample(), PGD(EPS, 0.1, 5)
    x, y = next(digits.val.batches(400))

    def loss(rate: float, ramp: float) -> float:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = models.lenet((4, 8, 64))
        recipe = train.Recipe(epochs=2, batch_size=64, lr=rate, ramp=ramp, schedule="constant")
        train.fit(network, digits, "adv", attack, recipe=recipe, val=digits.val[:50])
        z = network(attack(network, x, y, generator=_seeded(0))).detach()
        return round(float(losses.cross_entropy(z, y).mean()), 2)

    if answer is None or answer is ...:
        return print("… no answer yet: replace the dots")
    rivals = {"log 10": round(math.log(10), 2), "rate 2e-3, ramp 0.7, as in the chapter": loss(2e-3, 0.7)}
    return _measure(lambda: loss(**answer), rivals, "nats on attacked digits")


# --- chapter 3 -------------------------------------------------------------------------------------------------------


def first_order(answer: Answer) -> None:
    """Grade `answer(model, x, delta)`: the last line of Eq. 2, `|J delta|^2` for each sample, shape (N,)."""
    model, x, delta = _classifier(), _rand(6, 1, 4, 4), _randn(6, 1, 4, 4, seed=2)
    change = jvp(model, (x,), (delta,))[1].detach()
    right = change.square().sum(1)
    _grade(
        lambda: answer(model, x.clone(), delta.clone()),
        right,
        (
            losses.alp(model(x), model(x + delta)).detach(),
            "that is the exact loss; Eq. 2 asks for its linear part, J delta",
        ),
        (right.sqrt(), "that is |J delta|; Eq. 2 squares it"),
        (change, "that is J delta, a change for each class; Eq. 2 asks for its squared length"),
        (right.mean(), "one value a sample, please: do not average over the batch"),
        (right.sum(), "one value a sample, please: do not sum over the batch"),
        (change.square().mean(1), "you averaged over classes: sum the squares"),
        (change.sum(1).square(), "you summed over classes before squaring: square each class, then sum"),
    )


def crossing(answer: Any) -> None:
    """Grade the radius at which the first-order form becomes larger than the pairing loss, in ALP's network."""
    model = pretrained("mnist/alp")
    x, y = _digits(100)
    delta = PGD(EPS, 0.05, 20)(model, x, y, generator=_seeded(0)) - x

    def ratio(eps: float) -> float:
        linear, exact = (
            form(model, x, delta * eps / EPS) for form in (taylor.pairing_first_order, taylor.pairing_exact)
        )
        return float((linear / exact).detach().median())

    _grade_turn(answer, ratio, "first order is {:.2f} of the loss", 0.01)


# --- chapter 4 -------------------------------------------------------------------------------------------------------


def order_turns(answer: Any) -> None:
    """Grade the radius at which RAW's mean contribution overtakes ALP's, on 100 digits under PGD-10."""
    x, y = _digits(100)

    def mean(name: str, eps: float) -> float:
        model = pretrained(f"mnist/{name}")
        x_adv = PGD(eps, eps / 5, 10)(model, x, y, generator=_seeded(0))
        return float(contributions.loss_gradient(model, x_adv, y).mean())

    _grade_turn(answer, lambda eps: mean("raw", eps) / mean("alp", eps), "RAW's mean is {:.2f} times ALP's", 0.01)


def fool_the_share(answer: Answer) -> None:
    """Measure `answer(C)`: a unit for each feature, from 0.1 to 10, that makes Eq. 5 lie on few features.

    Features are multiplied by their units and the head is divided by them, so that no logit changes.
    """
    model = pretrained("mnist/alp")
    x, y = _digits(100)
    C = contributions.loss_gradient(model, x, y)

    def share(units: Tensor) -> float:
        if units.shape != C.shape or not bool(((units >= 0.1) & (units <= 10)).all()):
            raise _Rule(f"a unit from 0.1 to 10 for each of the {len(C)} features is asked for")
        ranked = (C / units).sort(descending=True).values.cumsum(0)
        return round(100 * (int((ranked < ranked[-1] / 2).sum()) + 1) / len(C), 1)

    rivals = {"as it is": share(torch.ones_like(C)), "a tenth of that": round(share(torch.ones_like(C)) / 10, 1)}
    _measure(lambda: share(answer(C.clone())), rivals, "% of the features hold half of Eq. 5")


# --- chapter 5 -------------------------------------------------------------------------------------------------------


def smallest_wrong_loss(answer: Any) -> None:
    """Grade the smallest cross-entropy in nats that a misclassified image can have: log 2."""
    _grade_number(
        answer,
        math.log(2),
        {
            math.log(10): "that is the largest loss of a *right* answer among ten classes",
            0.5: "that is the probability of the true class; the loss is minus its logarithm",
            1.0: "that is in bits; PyTorch's cross-entropy is in nats",
            -math.log(2): "the sign: a loss is minus a log-probability",
            0.0: "a loss of 0 needs a confidence of 1, and then the answer is right",
        },
    )


def foretell(answer: Answer) -> None:
    """Measure `answer(z, y)`: from clean logits, which digits of ALP's network the attack will turn, bool (N,).

    The score is the mean of two shares: of those that turn and of those that stay, how many were foretold. On 300 test
    digits that are right when clean.
    """
    z, z_adv, y = _before_and_after("alp", 300)
    right = z.argmax(1) == y
    z, turned, y = z[right], (z_adv.argmax(1) != y)[right], y[right]

    def score(found: Any) -> float:
        if not isinstance(found, Tensor) or found.shape != y.shape:
            raise _Rule("True or False for each digit is asked for, shape (N,)")
        found = found.bool()
        return round(50 * float(found[turned].float().mean() + (~found)[~turned].float().mean()), 1)

    sure = losses.confidence(z, y)
    rivals = {"none of them": score(sure < 0), "confidence below one half": score(sure < 0.5)}
    _measure(lambda: score(answer(z.clone(), y)), rivals, "% foretold", least=False)


# --- chapter 6 -------------------------------------------------------------------------------------------------------


def exact_half(answer: Answer) -> None:
    """Grade `answer(scores)`: a mask (F,), F even, of exactly the upper half; among equals any may be kept."""
    scores = torch.cat((_rand(5) + 0.1, torch.zeros(7)))[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    right = contributions.guided_dropout_mask(scores, "half").float()

    def ask() -> Any:
        found = answer(scores.clone())
        return right if _keeps_upper(found, scores, 6) else found

    _grade(
        ask,
        right,
        (torch.ones(12), "everything is kept: most features are dead, so the median is 0 and all are at least that"),
        (
            (scores > 0).float(),
            "fewer than half are kept: with most features dead, not half of them lie above the median",
        ),
        (contributions.guided_dropout_mask(-scores, "half").float(), "that is the lower half"),
        (1 - right, "that is the lower half"),
        (
            scores.topk(6).indices.float(),
            "these are the places of the kept features; a mask has an entry for every feature",
        ),
        (scores.topk(6).values, "these are the kept scores; a mask has an entry for every feature"),
        (scores * right, "these are the scores themselves; a mask is 1 where a feature is kept and 0 elsewhere"),
    )


def prune(answer: Answer) -> None:
    """Measure `answer(model, x, y)`: a mask of at most 32 of AALP's 256 features; `x` are clean and attacked digits.

    The score is the share of other digits, clean and attacked, that the network has right with these features alone.
    """
    model = pretrained("mnist/aalp")
    x, y = _attacked_too("aalp", 400)
    seen = torch.arange(len(y)) % 2 == 0
    a = model.features(x[~seen]).detach()

    def right(mask: Any) -> float:
        if not isinstance(mask, Tensor) or mask.shape != a.shape[1:] or int(mask.bool().sum()) > KEPT:
            raise _Rule(f"a mask of {a.shape[1]} features with at most {KEPT} kept is asked for")
        return round(100 * float((model.head(a * mask.bool()).argmax(1) == y[~seen]).float().mean()), 1)

    def top(scores: Tensor) -> Tensor:
        return torch.zeros_like(scores).scatter(0, scores.topk(KEPT).indices, 1)

    rivals = {
        "the 32 largest by Eq. 5": right(top(contributions.loss_gradient(model, x[seen], y[seen]))),
        "the 32 largest by Eq. 7": right(top(contributions.scores(model, x[seen], y[seen]))),
    }
    _measure(lambda: right(answer(model, x[seen], y[seen])), rivals, "% right", least=False)


# --- chapter 7 -------------------------------------------------------------------------------------------------------


def turning_point(answer: Any) -> None:
    """Grade the weighted pairing loss above which an attached weight lowers the confidence, at lambda 1/4: 2."""
    _grade_number(
        answer,
        2.0,
        {
            0.5: "that is the place for lambda = 1; here the pairing loss counts a quarter as much",
            0.125: "you multiplied by lambda; the pairing loss counts less, so that the place moves up",
            4.0: "the clean image's cross-entropy enters the joint mean with a half",
            1.0: "look at both factors: a half from the joint mean, a quarter from lambda",
            0.25: "that is lambda itself",
            -2.0: "the sign: both a probability and a squared distance are positive",
        },
    )


def weigh(answer: Answer) -> None:
    """Measure `answer(p)`: a weight in [0, 1] for each sample from its confidence, in place of Eq. 9's own `p`.

    The score is the part of the weighted pairing loss that inconsistent digits pay, in ALP's network. Consistent ones
    must keep a mean weight of 0.85, or the pairing only becomes weaker.
    """
    z, z_adv, y = _before_and_after("alp", 500)
    p, pairing = losses.confidence(z, y), losses.alp(z, z_adv)
    right, turned = z.argmax(1) == y, z_adv.argmax(1) != y

    def part(weight: Any) -> float:
        if not isinstance(weight, Tensor) or weight.shape != p.shape or not bool(((weight >= 0) & (weight <= 1)).all()):
            raise _Rule("a weight from 0 to 1 for each sample is asked for")
        if weight[right & ~turned].mean() < 0.85:
            raise _Rule(f"consistent digits keep a mean weight of {float(weight[right & ~turned].mean()):.2f} only")
        paid = weight * pairing
        return round(100 * float(paid[right & turned].sum() / paid[right].sum()), 1)

    rivals = {"weight 1, ALP": part(torch.ones_like(p)), "weight p, Eq. 9": part(p)}
    _measure(lambda: part(answer(p.clone()).float()), rivals, "% of the pairing loss paid by inconsistent digits")


# --- how it is done --------------------------------------------------------------------------------------------------


class _Rule(Exception):
    """An answer that breaks a rule of its experiment; the message says which."""


class _Counted(nn.Module):
    """A body that refuses to look at more images than its budget."""

    def __init__(self, body: nn.Module, budget: int) -> None:
        super().__init__()
        self.body, self.left = body, budget

    def forward(self, u: Tensor) -> Tensor:
        self.left -= len(u)
        if self.left < 0:
            raise _Rule(f"the budget of {GRADIENTS} gradients an image is spent")
        features: Tensor = self.body(u)
        return features


class _Staircase(nn.Module):
    """Normalised images rounded to steps: almost everywhere flat."""

    def forward(self, u: Tensor) -> Tensor:
        return (u * 2).round() / 2


def _measure(ask: Callable[[], float], rivals: Mapping[str, float], unit: str, least: bool = True) -> None:
    """Print the scoreboard: the answer among its rivals, best first; it wins when it is better than all of them."""
    mine = _asked(ask)
    if mine is None:
        return
    better = [mine < of if least else mine > of for of in rivals.values()]
    print(f"{'✓' if all(better) else '✗'} yours: {mine:g} {unit}")
    for name, of in sorted([*rivals.items(), ("yours", mine)], key=lambda line: line[1], reverse=not least):
        print(f"{of:8g}  {name}")


def _asked(ask: Callable[[], Any]) -> Any:
    """What `ask` gives, or None after a sentence on why it gives nothing."""
    try:
        found = ask()
    except NotImplementedError:
        return print("… not written yet: replace the line that raises")
    except _Rule as why:
        return print(f"✗ {why}")
    except Exception as error:  # whatever the reader's code raises
        return print(f"✗ your function stopped with {type(error).__name__}: {error}")
    return print("… nothing came back: is there a return?") if found is None or found is ... else found


def _grade_turn(answer: Any, ratio: Callable[[float], float], words: str, near: float) -> None:
    """Grade a radius at which a ratio that grows with it passes 1, to within `near`."""
    if answer is None or answer is ...:
        return print("… no answer yet: replace the dots")
    if isinstance(answer, bool) or not isinstance(answer, int | float) or not near < answer <= EPS:
        return print(f"✗ a radius between {near:g} and {EPS:g} is asked for")
    low, high = ratio(answer - near), ratio(answer + near)
    if low < 1 < high:
        return print("✓ right")
    return print(f"✗ at ε = {answer:g} {words.format(ratio(answer))}: go {'up' if high <= 1 else 'down'}")


@cache
def _sample() -> data.Dataset:
    return data.load("mnist-sample", device="cpu")


def _digits(count: int) -> tuple[Tensor, Tensor]:
    return next(_sample().test.batches(count))


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _attacked_too(name: str, count: int) -> tuple[Tensor, Tensor]:
    """Digits and the same digits attacked, side by side: images (2N, 1, 28, 28), the clean one first, and labels."""
    x, y = _digits(count)
    x_adv = PGD(EPS, 0.05, 20)(pretrained(f"mnist/{name}"), x, y, generator=_seeded(0))
    return torch.cat([x, x_adv]), y.repeat(2)


def _before_and_after(name: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of clean and of attacked digits, and the labels."""
    x, y = _attacked_too(name, count)
    z, z_adv = pretrained(f"mnist/{name}")(x).detach().chunk(2)
    return z, z_adv, y[:count]


def _allowed(x_adv: Any, x: Tensor) -> Tensor:
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
        raise _Rule("attacked images are asked for, of the same shape")
    if float((x_adv - x).abs().max()) > EPS + 1e-5 or float(x_adv.min()) < 0 or float(x_adv.max()) > 1:
        raise _Rule("a pixel left the ball or [0, 1]")
    return x_adv.detach()


def _right(model: nn.Module, x: Tensor, y: Tensor) -> int:
    return int((model(x).argmax(1) == y).sum())


def _grade(ask: Callable[[], Any], right: Tensor, *foreseen: Foreseen) -> None:
    """Print a verdict on what `ask` gives: right, one of the foreseen mistakes, or how far off."""
    found = _asked(ask)
    if found is None:
        return None
    if not isinstance(found, Tensor):
        return print(f"✗ a tensor is asked for, got {type(found).__name__}")
    found = found.detach().to(right.dtype)
    if _same(found, right):
        return print("✓ right")
    for value, why in foreseen:
        if _same(found, value.detach()):
            return print(f"✗ {why}")
    return print(f"✗ {_how_far(found, right)}")


def _grade_number(found: Any, right: float, foreseen: dict[float, str]) -> None:
    if found is None or found is ...:
        return print("… no answer yet: replace the dots")
    if isinstance(found, Tensor) and found.numel() == 1:
        found = found.item()
    if isinstance(found, bool) or not isinstance(found, int | float):
        return print(f"✗ a number is asked for, got {type(found).__name__}")
    if abs(found - right) < 1e-3 * abs(right):
        return print("✓ right")
    near = [why for value, why in foreseen.items() if abs(found - value) <= 1e-3 * abs(value)]
    return print(f"✗ {near[0] if near else f'{found:g} is too ' + ('small' if found < right else 'large')}")


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-6)


def _keeps_upper(found: Any, scores: Tensor, count: int) -> bool:
    """Whether `found` is a mask of `count` features of which none scores less than one that is dropped."""
    if not isinstance(found, Tensor) or found.shape != scores.shape or not bool(((found == 0) | (found == 1)).all()):
        return False
    kept = found.bool()
    return int(kept.sum()) == count and bool(scores[kept].min() >= scores[~kept].max())


def _how_far(found: Tensor, right: Tensor) -> str:
    if found.shape != right.shape:
        return f"the shape is {tuple(found.shape)}, asked for is {tuple(right.shape)}"
    if not bool(found.isfinite().all()):
        return "some values are not finite"
    ratio = (found / right)[right.abs() > 1e-6]
    if len(ratio) > 1 and torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-3):
        return f"right but for a factor: everything is {float(ratio[0]):.4g} times what it should be"
    wrong = ~torch.isclose(found, right, rtol=1e-3, atol=1e-6)
    place = tuple(wrong.nonzero()[0].tolist())
    return (
        f"{int(wrong.sum())} of {wrong.numel()} values differ; the first at {place}: "
        f"{float(found[place]):.4g}, and {float(right[place]):.4g} is right"
    )


def _rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _layer(fan_in: int, fan_out: int, seed: int) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
    with torch.no_grad():
        layer.weight.copy_(_randn(fan_out, fan_in, seed=seed) / 2)
        layer.bias.zero_()
    return layer


def _head() -> nn.Linear:
    return _layer(8, 5, seed=3)


def _classifier() -> Classifier:
    """A small network on images (N, 1, 4, 4), smooth and not linear, in evaluation mode."""
    return Classifier(nn.Sequential(nn.Flatten(), _layer(16, 8, seed=4), nn.Tanh()), _head()).eval()


# --- chapter 8 -------------------------------------------------------------------------------------------------------


def training_cost(answer: Any) -> None:
    """Grade the gradient evaluations of AALP: 54,000 images, 16 epochs, 5 attack steps, both samples trained on."""
    images = 54_000 * 16
    _grade_number(
        answer,
        images * 7,
        {
            images * 5: "those are the attack's; the training step takes two more an image, clean and adversarial",
            images * 6: "both the clean and the adversarial sample go through the training step",
            54_000 * 7: "that is one epoch",
            images * 10: "the two samples do not double the attack, which starts from one image: add, do not multiply",
            images * 14: "a forward and a backward pass count as one evaluation",
            images * 7 / 128: "that counts steps on batches; count images",
        },
    )


def seeds_needed(answer: Any) -> None:
    """Grade how many seeds show a mean gain of half a point whose gains scatter by half a point: 7."""
    _grade_number(
        answer,
        7,
        {
            4: "with 1.96 it would do; so few seeds take t of 3.18",
            6: "nearly: t is 2.57 there, and half the interval 0.52",
            5: "t is 2.78 there, and half the interval 0.62",
            8: "enough, but one fewer is enough too",
        },
    )


# --- chapter 9 -------------------------------------------------------------------------------------------------------


def images_needed(answer: Any) -> None:
    """Grade how many images, all of them won by one model, McNemar's two-sided test needs for p below 0.05: 6."""
    _grade_number(
        answer,
        6,
        {
            5: "2 · 2⁻⁵ is 0.0625; one-sided it would do, but either model might have been ahead",
            4: "2 · 2⁻⁴ is 0.125",
            7: "enough, but one fewer is enough too",
            20: "0.05 is not one image in twenty: each further image halves the chance",
        },
    )


def break_defence(answer: Answer) -> None:
    """Measure `answer(model, x, y, eps)` against a network that rounds its images to a few greys before it looks.

    `model.body[0]` is the rounding, whose gradient is 0; the rest is RAW. The scoreboard counts how many of 60 digits
    are still right.
    """
    plain = pretrained("mnist/raw")
    x, y = _digits(60)
    model = Classifier(nn.Sequential(_Staircase(), *plain.body.children()), plain.head, (0.1307,), (0.3081,)).eval()

    def left(attack: Answer) -> int:
        return _right(model, _allowed(attack(model, x.clone(), y, EPS), x), y)

    rivals = {
        "PGD-20": lambda model, x, y, eps: PGD(eps, 0.05, 20)(model, x, y, generator=_seeded(0)),
        "the margin, PGD-20": lambda model, x, y, eps: CW(eps, 0.05, 20)(model, x, y, generator=_seeded(0)),
        "twenty digits": None,
    }
    shown = {name: 20 if attack is None else left(attack) for name, attack in rivals.items()}
    _measure(lambda: left(answer), shown, "of 60 digits still right")


# --- chapter 10 ------------------------------------------------------------------------------------------------------


def normalised_radius(answer: Answer) -> None:
    """Grade `answer(eps, std)`: the radius of each channel after (x - mean) / std, shape (C,)."""
    eps, std = 8 / 255, torch.tensor([0.2, 0.25, 0.4])
    _grade(
        lambda: _flat(answer(eps, std.clone())),
        eps / std,
        (eps * std, "you multiplied: dividing an image by std divides its perturbation too"),
        (eps / std**2, "std enters once"),
        ((eps / std).mean()[None], "one radius a channel: what is a cube becomes a box"),
        ((eps / std.mean())[None], "one radius a channel: each is divided by its own std"),
        ((eps - 0.5) / std, "the mean moves the image and its ball alike; only std scales the radius"),
        (255 * eps / std, "eps is in units of [0, 1] already"),
    )


def joined_gradient(answer: Answer) -> None:
    """Grade `answer(gradients, counts)`: the gradient of the whole batch's mean loss from those of its shards."""
    counts, parts = [1, 2, 5], [_randn(4, 3, seed=k) for k in range(3)]
    weighted = torch.stack([n * g for n, g in zip(counts, parts, strict=True)]).sum(0)
    _grade(
        lambda: answer([g.clone() for g in parts], list(counts)),
        weighted / 8,
        (torch.stack(parts).mean(0), "a plain mean is right for equal shards; weight each by its number of images"),
        (torch.stack(parts).sum(0), "a sum over processes is a gradient that grows with their number"),
        (weighted, "divide by the number of images of the whole batch"),
        (weighted / 3, "you divided by the number of shards; divide by the number of images"),
        (torch.cat(parts), "one gradient, of the weights' own shape: add, do not concatenate"),
    )


def _tensor(value: Any) -> Any:
    return torch.tensor(value) if isinstance(value, float) else value


def _flat(value: Any) -> Any:
    return value.flatten() if isinstance(value, Tensor) else _tensor(value)


__all__: Sequence[str] = (
    "break_defence",
    "crossing",
    "exact_half",
    "first_order",
    "fool",
    "fool_the_share",
    "foretell",
    "images_needed",
    "joined_gradient",
    "normalised_radius",
    "off_the_plateau",
    "order_turns",
    "plateau",
    "prune",
    "seeds_needed",
    "smallest_wrong_loss",
    "steps_to_cross",
    "training_cost",
    "turning_point",
    "weigh",
)
