"""Networks as attacks see them, private copies: the user's network is only read, whatever it is, whoever uses it."""

import collections
import functools
import threading
import types
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import aalp_lib as aalp
from aalp_lib import engine


def resnet():
    torch.manual_seed(0)
    model = aalp.models.resnet32(4, in_channels=1, mean=(0.1,), std=(0.3,))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def state(model):
    """All that can be seen of a network: its objects, what they hold and compute with, how often that was written."""
    tensors = [*model.parameters(), *model.buffers()]
    held = [{k: list(map(id, [*v, *v.values()])) if isinstance(v, dict) else id(v) for k, v in vars(m).items()}
            for m in model.modules()]  # fmt: skip
    seen = [(t.data_ptr(), t.stride(), t._version, t.requires_grad, t.grad is None) for t in tensors]
    return [*map(id, model.modules())], held, seen, [t.detach().clone() for t in tensors]


def assert_untouched(model, before):
    *found, tensors = state(model)
    assert tuple(found) == before[:-1]
    assert all(map(torch.equal, tensors, before[-1]))


def images(count=12, channels=1, side=8):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, channels, side, side, generator=generator), torch.arange(count) % 10


# --- what is left behind


class Watched(nn.Module):
    """Tells on every call."""

    def __init__(self, inner, told):
        super().__init__()
        self.inner, self.told = inner, told

    def forward(self, x):
        self.told()
        return self.inner(x)


USES = {
    "attack": lambda model, x, y, split: aalp.PGD(0.1, 0.05, 3)(model, x, y),
    "evaluate": lambda model, x, y, split: aalp.evaluate(model, split, {"a": aalp.CW(0.1, 0.05, 3)}),
    "diagnose": lambda model, x, y, split: aalp.diagnose(model, split, aalp.PGD(0.1, 0.05, 3), queries=0),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_a_network_is_untouched_during_and_after_also_by_an_error(use, error):
    inner = resnet().train()
    inner.body[2].eval()
    before, calls, original = state(inner), [], weakref.ref(inner)  # what holds the network itself is copied, too

    def told():
        assert_untouched(original(), before)
        calls.append(error)
        if error and len(calls) > 4:
            raise error

    x, y = images()
    split = aalp.Split((x * 255).byte(), y)
    try:
        use(Watched(inner, told), x, y, split)
        assert error is None
    except (ZeroDivisionError, KeyboardInterrupt) as caught:
        assert type(caught) is error  # noqa: PT017
    assert calls
    assert_untouched(inner, before)


def test_what_a_network_writes_in_evaluation_it_writes_into_the_copy():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.calls, self.seen = nn.Linear(64, 10), 0, []
            self.register_buffer("total", torch.zeros(1))

        def forward(self, x):
            self.calls, self.total = self.calls + 1, self.total.add_(1)
            self.seen.append(self.calls)
            return self.head(x.flatten(1))

    model = Counts()
    aalp.PGD(0.1, 0.05, 3)(model, *images())
    assert (model.calls, model.seen, float(model.total)) == (0, [], 0)


@pytest.mark.parametrize("use", ["attack", "evaluate"])
def test_threads_on_one_network_get_what_one_gets(use):
    model = resnet().train()
    x, y = images(24)
    split = aalp.Split((x * 255).byte(), y)

    def once():
        if use == "attack":
            return aalp.PGD(0.1, 0.05, 3)(model, x, y, generator=torch.Generator().manual_seed(0))
        report = aalp.evaluate(model, split, {"a": aalp.PGD(0.1, 0.05, 3)})
        return torch.stack([report["clean"].correct, report["a"].correct])

    expected, before, found = once(), state(model), []
    model.body[0][2].inplace = True  # its first look is due again, in all threads at once
    threads = [threading.Thread(target=lambda: found.extend(once() for _ in range(10))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model.body[0][2].inplace = False
    assert len(found) == 30
    assert all(torch.equal(one, expected) for one in found)
    assert_untouched(model, before)


def test_wrapping_and_features_in_threads_do_not_meet():
    """While some wrap networks and ask for features, others call theirs; all are right, and torch still works."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    shared, errors = aalp.models.wrap(module), []

    def work(seed):
        x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        for _ in range(50):
            try:
                model = aalp.models.wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)))
                assert model.features(x).shape == (4, 8)
                assert torch.equal(shared.features(x), module[:3](x))
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert not module[3]._forward_hooks


# --- what a network may be


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 10)
        nn.init.uniform_(self.norm.running_mean)

    def layers(self, x):
        return self.norm(self.conv(x)).relu().flatten(1)

    def forward(self, x):
        return self.head(self.layers(x))


class View(Base):
    def layers(self, x):
        return self.conv(x).view(len(x), -1)


class Bound(Base):
    """Holds methods, functions, objects and lists that refer to its layers."""

    class Helper:
        def __init__(self, owner):
            self.owner = owner

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.steps = [self.layers, lambda z: self.drop(z), functools.partial(Bound.dropped, self)]
        self.helper, self.named = Bound.Helper(self.drop), {"head": (self.head, self.drop)}

    def dropped(self, z):
        return self.helper.owner(self.drop(z))

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        head, drop = self.named["head"]
        return head(drop(x))


class Tied(Base):
    def __init__(self):
        super().__init__()
        self.again = nn.Conv2d(1, 4, 3)
        self.again.weight, self.alias = self.conv.weight, self.conv

    def layers(self, x):
        return super().layers(x) + self.again(x).flatten(1) + self.alias(x).flatten(1)


class InPlace(Base):
    def forward(self, x):
        return super().forward(x.mul_(0.5))


class Checkpointed(Base):
    def forward(self, x):
        return self.head(checkpoint(self.layers, x, use_reentrant=False))


def spectral():
    model = Base()
    parametrizations.spectral_norm(model.conv)
    parametrizations.weight_norm(model.head)
    return model


def hooked():
    model = Base()
    model.norm.register_forward_hook(lambda module, inputs, output: output * 2)
    model.conv.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 0.1,))
    return model


def compiled_in_place():
    model = Base()
    model.compile(backend="eager")
    return model


KINDS = {
    "view": View,
    "bound": Bound,
    "tied": Tied,
    "in place": InPlace,
    "checkpoint": Checkpointed,
    "parametrized": spectral,
    "hooks": hooked,
    "compiled": lambda: torch.compile(Base(), backend="eager"),
    "compiled in place": compiled_in_place,
    "traced": lambda: torch.jit.trace(Base().eval(), torch.rand(2, 1, 8, 8)),
    "fx": lambda: torch.fx.symbolic_trace(Base()),
    "data parallel": lambda: nn.DataParallel(Base()),
    "channels last": lambda: Base().to(memory_format=torch.channels_last),
    "frozen": lambda: Base().requires_grad_(False),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_networks_of_any_kind_compute_what_they_compute_in_evaluation(make, training):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch deprecates
        torch.manual_seed(0)
        model = make()
        x, y = images()
        leaf = x.clone().requires_grad_()
        expected = model.eval()(leaf.clone()).detach()
        (slope,) = torch.autograd.grad(model(leaf.clone()).square().sum(), leaf)
        model.train(training)
        before, kept = state(model), x.clone()
        with engine.prepared(model, x) as forward:
            torch.testing.assert_close(forward(x), expected)
            torch.testing.assert_close(torch.autograd.grad(forward(leaf).square().sum(), leaf)[0], slope)
        aalp.PGD(0.1, 0.05, 2)(model, x, y)
    assert torch.equal(x, kept)
    assert_untouched(model, before)
    assert all(m.training == training for m in model.modules())


def test_weights_flags_and_layers_that_change_are_seen():
    model = Base().eval()
    x, _ = images()

    def change_a_layer():
        model.norm = nn.Identity()

    changes = [
        lambda: model.conv.weight.data.mul_(-2),
        lambda: model.norm.running_mean.add_(1),
        lambda: setattr(model.norm, "eps", 0.5),
        lambda: setattr(model.conv, "padding", (0, 0)),
        change_a_layer,
        model.double,
    ]
    for change in changes:
        with torch.no_grad():
            change()
        images_ = x.to(model.head.weight.dtype)
        with engine.prepared(model, images_) as forward:
            torch.testing.assert_close(forward(images_), model(images_))


def test_gradients_are_taken_in_inference_mode_too():
    model, (x, y) = Base(), images()
    expected = aalp.PGD(0.1, 0.05, 2)(model, x, y, start=x)
    with torch.inference_mode():
        found = aalp.PGD(0.1, 0.05, 2)(model, x.clone(), y.clone(), start=x.clone())
    assert torch.equal(found, expected)


# --- what is refused


class Ends(Base):
    def __init__(self, end):
        super().__init__()
        self.end = end

    def forward(self, x):
        return self.end(super().forward(x))


REFUSED = {
    "tuple": (lambda z: (z,), "must return logits .* returned a tuple"),
    "one logit": (lambda z: z[:, :1], "two or more classes"),
    "spatial": (lambda z: z[:, :, None, None], r"returned \(2, 10, 1, 1\) for 2 images"),
    "NaN": (lambda z: z * float("nan"), "gives NaN"),
    "detached": (lambda z: z.detach(), "no gradient reaches the images"),
    "checkpoint": (lambda z: checkpoint(nn.ReLU(), z, use_reentrant=True), "no gradient .*use_reentrant"),
}


@pytest.mark.parametrize(("end", "said"), REFUSED.values(), ids=REFUSED)
def test_networks_that_cannot_be_attacked_are_refused(end, said):
    with pytest.raises(aalp.InputError, match=said):
        aalp.PGD(0.1, 0.05, 2)(Ends(end), *images())


NO_GRADIENT = {  # of the pixels: what the network does to them first, and what is then said of how many images
    "round": (lambda x: (x * 255).round() / 255, "0 at 12"),
    "nan": (lambda x: x + (0 * x).sum((1, 2, 3), keepdim=True).sqrt(), "NaN at 12"),
    "nan at dark pixels": (lambda x: torch.where(x > 0.5, x.log(), x.exp() * (0 * x).sqrt()), "NaN at 12"),
    "nan at one pixel of nine images": (
        lambda x: x + 0 * (x[:, :, :1, :1] * (x[:, :, :1, :1] > 0.66)).sqrt(),
        "NaN at 9",
    ),
}


class Through(Base):
    def __init__(self, first):
        super().__init__()
        self.first = first

    def forward(self, x):
        return super().forward(self.first(x))


@pytest.mark.parametrize("attack", [aalp.FGSM(0.1), aalp.PGD(0.08, 0.04, 2), aalp.CW(0.3, 0.1, 3, norm="l2")])
@pytest.mark.parametrize(("first", "said"), NO_GRADIENT.values(), ids=NO_GRADIENT)
def test_images_that_no_step_can_move_are_counted(attack, first, said):
    network, pixels = Through(first).eval(), (255 * images()[0]).byte()
    with pytest.warns(UserWarning, match=f"the attack: the loss has a gradient of {said} of 12 images") as heard:
        x_adv = attack(network, *images())
    assert heard[0].filename == __file__
    assert torch.isfinite(x_adv).all()
    split = aalp.Split(pixels, network(pixels / 255).argmax(1))
    for reading in ("any", "last"):
        with pytest.warns(UserWarning, match=f"a: the loss has a gradient of {said[:5]}.* of 12 images"):
            aalp.evaluate(network, split, {"a": attack}, reading=reading)
    if attack.start != "clean":
        found = aalp.diagnose(network, split, attack, queries=0)
        assert any(f"{'NaN' if 'NaN' in said else 'exactly 0'} at" in sign for sign in found.signs)


def test_a_network_whose_logits_depend_on_the_batch_is_named():
    """Batch norm without running statistics; its attacks are not taken in parts, for each would be another batch."""
    torch.manual_seed(0)
    networks = [
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=kept), nn.Flatten(), nn.Linear(144, 10))
        for kept in (True, False)
    ]
    own, together = (network.eval() for network in networks)
    x, y = images(200)
    for call in (lambda network: aalp.FGSM(0.1)(network, x, y), lambda network: aalp.evaluate(network, (x, y), {})):
        with pytest.warns(UserWarning, match="depends on the other images in the batch"):
            call(together)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(own)
    with engine.prepared(together, x) as forward:
        found = aalp.FGSM(0.1).perturb(forward, x, y)
    with torch.enable_grad():
        free = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(together(free), y, reduction="sum"), free)
    assert torch.equal(found, (x + 0.1 * gradient.sign()).clamp(0, 1))


# --- what changes where no key can see it

SWITCH = {"k": 4, "center": False, "writes": False}


class Switched(nn.Module):
    """Reads flags from an object, or from a global."""

    def __init__(self, where):
        super().__init__()
        self.l = nn.Linear(5, 4)
        if where == "object":
            self.cfg = types.SimpleNamespace(k=4, center=False, writes=False)

    def forward(self, x):
        cfg = getattr(self, "cfg", None) or types.SimpleNamespace(**SWITCH)
        x = x.flatten(1) if not cfg.writes else x.mul_(0.5).flatten(1)
        return self.l(x - x.mean(0) if cfg.center else x)[:, : cfg.k]


@pytest.mark.parametrize("where", ["object", "global"])
def test_what_a_configuration_changes_after_an_attack_is_seen(where, monkeypatch):
    x, y, attack = torch.rand(40, 1, 1, 5), torch.arange(40) % 4, aalp.FGSM(0.1)

    def used(**flags):
        """A network that was attacked before these flags were set."""
        for name, value in {"k": 4, "center": False, "writes": False}.items():
            monkeypatch.setitem(SWITCH, name, value)
        model = Switched(where)
        attack(model, x, y)
        for name, value in flags.items():
            monkeypatch.setitem(SWITCH, name, value) if where == "global" else setattr(model.cfg, name, value)
        return model

    for use in (attack, lambda model, x, y: aalp.evaluate(model, (x, y), {})):
        with pytest.raises(aalp.InputError, match=r"labels must lie in \[0, 2\]"):
            use(used(k=3), x, y)
        with pytest.warns(UserWarning, match="depends on the other images in the batch"):
            use(used(center=True), x, y)
    kept = x.clone()
    attack(used(writes=True), x, y)
    assert torch.equal(x, kept)


# --- where a network may keep its layers


class Slotted:
    __slots__ = ("held", "unset")

    def __init__(self, held):
        self.held = held


def boxed(value):
    return types.SimpleNamespace(value=value)


HOLDERS = {  # how layers are kept, and got again
    "deque": (lambda bn: collections.deque([bn], maxlen=3), lambda q: q[0]),
    "set": (lambda bn: {bn}, lambda q: next(iter(q))),
    "frozenset": (lambda bn: frozenset([bn]), lambda q: next(iter(q))),
    "ordered": (lambda bn: collections.OrderedDict(a=bn), lambda q: q["a"]),
    "object in an object": (lambda bn: boxed(boxed(bn)), lambda q: q.value.value),
    "objects and containers": (lambda bn: boxed([boxed({"a": bn})]), lambda q: q.value[0].value["a"]),
    "slots": (Slotted, lambda q: q.held),
}


class Holding(Base):
    def __init__(self, hold, get):
        super().__init__()
        self.q, self.get = hold(self.norm), get

    def layers(self, x):
        return self.get(self.q)(self.conv(x)).relu().flatten(1)


@pytest.mark.parametrize(("hold", "get"), HOLDERS.values(), ids=HOLDERS)
def test_layers_kept_in_containers_and_objects_are_copied(hold, get):
    found, (x, y) = [], images()
    for model in (Base, functools.partial(Holding, hold, get)):
        torch.manual_seed(0)
        model = model().train()
        before = state(model)
        with engine.prepared(model, x) as forward:
            found.append(aalp.PGD(0.1, 0.05, 3).perturb(forward, x, y, start=x))
        assert_untouched(model, before)
    assert torch.equal(*found)


class Lookup:
    """Finds a layer where no copy looks: in its class."""

    layer = None

    def __call__(self, q):
        return Lookup.layer


def test_a_layer_out_of_reach_is_named_and_set_back(monkeypatch):
    model = Holding(lambda norm: None, Lookup()).train()
    monkeypatch.setattr(Lookup, "layer", model.norm)
    before = [b.clone() for b in model.buffers()]
    with pytest.raises(aalp.InputError, match=r"the model's norm\.(running_mean|num_batches_tracked) changes"):
        aalp.FGSM(0.1)(model, *images())
    assert all(map(torch.equal, model.buffers(), before))
