import dataclasses

import pytest
import torch

import aalp_lib as aalp
from aalp_lib import losses
from aalp_lib.methods import TABLE_2, attacked_view, training_loss


@pytest.fixture
def batch(digits, generator):
    x, y = digits
    return x, (x + 0.2 * torch.rand(x.shape, generator=generator)).clamp(0, 1), y


def ablated(name="aalp", **changes):
    method = aalp.METHODS[name]
    return dataclasses.replace(method, guided_dropout=dataclasses.replace(method.guided_dropout, **changes))


def test_the_nine_rows_of_table_2_and_3():
    assert tuple(aalp.METHODS) == (*TABLE_2, "raw_gd", "adv_gd")
    assert len({m.label for m in aalp.METHODS.values()}) == 9
    on = {name for name, m in aalp.METHODS.items() if m.guided_dropout}
    assert on == {"aalp_gd", "aalp", "raw_gd", "adv_gd"}
    assert {name for name, m in aalp.METHODS.items() if not m.adversarial} == {"raw", "raw_gd"}


@pytest.mark.parametrize("name", aalp.METHODS)
def test_each_row_against_its_formula_written_out(model, batch, name):
    x, x_adv, y = batch
    method = aalp.METHODS[name]
    rows = {"raw": [x], "raw_gd": [x], "adv": [x_adv], "adv_gd": [x_adv]}.get(name, [x, x_adv])
    a, labels = model.features(torch.cat(rows)), y.repeat(len(rows))
    if method.guided_dropout:
        gradient = (model.head(a).softmax(1) - torch.nn.functional.one_hot(labels, 10)) @ model.head.weight
        scores = (gradient * a).abs().mean(0)
        a = a * (scores >= scores.quantile(0.5))
    z = model.head(a)
    entropy = torch.nn.functional.cross_entropy(
        z[: len(y)] if name == "trades" else z, labels[: len(z)][: len(y)] if name == "trades" else labels
    )
    pairing = torch.zeros(())
    if len(rows) == 2:
        z_clean, z_adv = z.chunk(2)
        weight = z_clean.softmax(1)[torch.arange(len(y)), y]
        pairing = {
            "trades": 6 * losses.trades_kl(z_clean, z_adv),
            "alp": losses.alp(z_clean, z_adv),
            "aalp_gd": losses.alp(z_clean, z_adv),
        }.get(name, weight * losses.alp(z_clean, z_adv)).mean()
    found = training_loss(method, model, x, x_adv, y)
    torch.testing.assert_close(found.total, entropy + pairing)


def test_a_row_goes_by_its_name_and_a_network_by_wrap(model, batch):
    x, x_adv, y = batch
    for name in ("trades", "AALP (sw)"):
        found, wanted = (training_loss(row, model, x, x_adv, y).total for row in (name, aalp.method(name)))
        assert torch.equal(found, wanted)
    with pytest.raises(aalp.InputError, match="unknown method 'madri'"):
        training_loss("madri", model, x, x_adv, y)
    with pytest.raises(aalp.InputError, match=r"must be a Classifier, got Sequential; use models\.wrap"):
        training_loss("adv", torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)), x, x_adv, y)


def test_aalp_with_weight_one_and_a_full_mask_is_alp(model, batch):
    """Sure of every clean image, the weight is 1 and no feature contributes more than another: all are kept."""
    x, x_adv, _ = batch
    model.double()
    with torch.no_grad():
        model.head.weight.mul_(1e9)
    x, x_adv = x.double(), x_adv.double()
    y = model(x).argmax(1)
    x_adv = torch.where((model(x_adv).argmax(1) == y)[:, None, None, None], x_adv, x)
    aalp_terms, alp_terms = (training_loss(aalp.METHODS[name], model, x, x_adv, y) for name in ("aalp", "alp"))
    assert aalp_terms.kept == 1
    assert alp_terms.pairing > 0
    torch.testing.assert_close(aalp_terms.total, alp_terms.total, rtol=1e-12, atol=0)


def test_with_alpha_zero_it_is_adversarial_training_on_the_joint_batch(model, batch):
    x, x_adv, y = batch
    zero = dataclasses.replace(aalp.METHODS["aalp_sw"], weight=0.0)
    joint = torch.nn.functional.cross_entropy(model(torch.cat([x, x_adv])), y.repeat(2))
    torch.testing.assert_close(training_loss(zero, model, x, x_adv, y).total, joint)


def test_no_gradient_through_the_weight_unless_asked(model, batch):
    free = dataclasses.replace(aalp.METHODS["aalp_sw"], detach_weight=False)
    with torch.no_grad():
        model.head.weight.mul_(30)  # an untrained network is equally unsure of everything
    gradients = []
    for method in (aalp.METHODS["aalp_sw"], free):
        terms = training_loss(method, model, *batch[:2], batch[2])
        gradients.append(torch.autograd.grad(terms.pairing, model.head.weight)[0])
    assert (gradients[0] - gradients[1]).abs().max() > 0.05 * gradients[0].abs().max()


def test_a_pairing_term_may_be_any_function_and_stands_in_files_by_its_name(model, batch):
    def halved_alp(z_clean, z_adv, y):
        return losses.alp(z_clean, z_adv) / 2

    own = dataclasses.replace(aalp.METHODS["alp"], pairing=halved_alp)
    found, plain = (training_loss(m, model, *batch) for m in (own, aalp.METHODS["alp"]))
    torch.testing.assert_close(found.pairing, plain.pairing / 2)
    assert own.described() == aalp.METHODS["alp"].described() | {"pairing": "halved_alp"}
    with pytest.raises(aalp.InputError, match="must be a function with a name"):
        dataclasses.replace(own, pairing=lambda z_clean, z_adv, y: losses.alp(z_clean, z_adv))
    with pytest.raises(aalp.InputError, match="must be a function with a name that is not taken, got 'alp'"):
        dataclasses.replace(own, pairing=losses.alp)


def test_one_forward_pass_serves_clean_and_adversarial(model, batch):
    calls = []
    hook = model.body.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    training_loss(aalp.METHODS["aalp"], model, *batch)
    hook.remove()
    assert calls == [64]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda m, x, x_adv, y: (m, "aalp", x, x_adv, y), "a method must be a Method or the name of one, got Class"),
        (lambda m, x, x_adv, y: ("aalp", m, (x * 255).byte(), x_adv, y), "divide uint8 images by 255"),
        (lambda m, x, x_adv, y: ("aalp", m, x, (x_adv * 255).byte(), y), "divide uint8 images by 255"),
        (lambda m, x, x_adv, y: ("aalp", m, x * 255, x_adv, y), r"must lie in \[0, 1\]"),
        (lambda m, x, x_adv, y: ("aalp", m, x, x_adv - 1, y), r"must lie in \[0, 1\]"),
        (lambda m, x, x_adv, y: ("aalp", m, x, x_adv[:5], y), "clean and adversarial images must be alike"),
        (lambda m, x, x_adv, y: ("aalp", m, x, x_adv.double(), y), "clean and adversarial images must be alike"),
        (lambda m, x, x_adv, y: ("aalp", m, x, x_adv, y + 10), r"labels must lie in \[0, 9\]"),
        (lambda m, x, x_adv, y: ("raw", m, x, None, y[:3]), "labels must be int64 of shape"),
        (lambda m, x, x_adv, y: ("raw", m, x, None, y.tolist()), "labels must be a torch tensor, got list"),
        (lambda m, x, x_adv, y: ("raw", m, x[:0], None, y[:0]), "no images"),
        (lambda m, x, x_adv, y: ("raw", m, x[..., :20], None, y), "cannot take images of shape"),
        (lambda m, x, x_adv, y: (_own(pairing=mean_alp), m, x, x_adv, y), "'mean_alp' must return losses of shape"),
        (lambda m, x, x_adv, y: (ablated(rule=no_bool), m, x, x_adv, y), "'no_bool' must return masks, bool"),
    ],
)
def test_what_cannot_be_trained_on_is_said(model, batch, wrong, said):
    x, x_adv, y = batch
    with pytest.raises(aalp.InputError, match=said):
        training_loss(*wrong(model, x, x_adv, y))


def _own(**changes):
    return dataclasses.replace(aalp.METHODS["alp"], **changes)


def mean_alp(z_clean, z_adv, y):
    return losses.alp(z_clean, z_adv).mean()


def no_bool(scores, noise):
    return scores


# --- Guided Dropout's options


@pytest.mark.parametrize(("scope", "rows"), [("batch", 1), ("branch", 64), ("sample", 64)])
def test_scope_says_whose_mask_it_is(model, batch, scope, rows):
    x, x_adv, y = batch
    features = model.features(torch.cat([x, x_adv.roll(1, 2)]))
    factors = ablated(scope=scope, rule="half").guided_dropout.factors(model, features, y.repeat(2), 2)
    assert factors.shape == (rows, 32)
    assert (factors.sum(1) == 16).all()
    if scope == "branch":
        assert (factors[:32] == factors[0]).all()
        assert (factors[32:] == factors[32]).all()
        alone = ablated(rule="half").guided_dropout.factors(model, features[:32], y, 1)
        assert torch.equal(factors[:1], alone)
    if scope == "sample":
        assert len(factors.unique(dim=0)) > 2


def test_a_mask_rule_may_be_any_function(model, batch):
    def first_feature(scores, noise):
        assert scores.shape == noise.shape
        return torch.arange(scores.shape[1]) < torch.ones(len(scores), 1)

    x, _, y = batch
    factors = ablated(rule=first_feature).guided_dropout.factors(model, model.features(x), y, 1)
    assert factors.tolist() == [[1.0] + 31 * [0.0]]
    assert ablated(rule=first_feature).described()["guided_dropout"]["rule"] == "first_feature"


def test_kept_features_are_not_rescaled_unless_asked(model, batch):
    x, _, y = batch
    features = model.features(x)
    plain, rescaled = (
        ablated(rule="half", rescale=value).guided_dropout.factors(model, features, y, 1) for value in (False, True)
    )
    assert plain.max() == 1
    assert torch.equal(rescaled, 2 * plain)


def test_dropped_features_get_no_gradient(model, batch):
    x, x_adv, y = batch
    method = ablated(rule="half")
    terms = training_loss(method, model, x, x_adv, y)
    (gradient,) = torch.autograd.grad(terms.total, model.head.weight)
    assert terms.kept == 0.5
    assert (gradient.abs().sum(0) == 0).sum() >= 16


def test_attacks_in_training_see_the_model_without_the_mask_unless_asked(model, batch):
    x, _, y = batch
    assert attacked_view(aalp.METHODS["aalp"], model, model.forward, x, y) == model.forward
    masked = attacked_view(ablated(in_attack=True, rule="half"), model, model.forward, x, y)
    assert (masked(x) - model(x)).abs().max() > 1e-3


def test_methods_go_by_their_names_in_tables_too():
    for method in aalp.METHODS.values():
        assert aalp.method(method.name.upper()) is aalp.method(method.label) is method


def test_unknown_method_is_named():
    with pytest.raises(aalp.InputError, match=r"unknown method 'aapl'.*raw, adv, alp.*Did you mean 'aalp'"):
        aalp.fit(aalp.models.lenet(), [], "aapl")
