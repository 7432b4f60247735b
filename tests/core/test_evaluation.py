import numpy as np
import pytest
import torch
from conftest import linear
from scipy.stats import norm
from torch.utils.data import DataLoader, TensorDataset

import aalp_lib as aalp
from aalp_lib import seeds
from aalp_lib.attacks import derived
from aalp_lib.evaluation import Outcome


@pytest.fixture(scope="module")
def few(sample):
    return sample.test[:120]


SUITE = {"fgsm": aalp.FGSM(0.1), "pgd5": aalp.PGD(0.1, 0.02, 5), "pgd20": aalp.PGD(0.1, 0.02, 20)}


def test_ten_columns_with_the_papers_settings():
    for name, (eps, step) in {"mnist": (0.3, 0.01), "svhn": (12 / 255, 3 / 255), "cifar10": (8 / 255, 2 / 255)}.items():
        suite = aalp.table2_suite(name)
        assert list(suite) == ["fgsm", *(f"pgd{k}" for k in (10, 20, 40, 100)), *(f"cw{k}" for k in (10, 20, 40, 100))]
        assert suite["fgsm"] == aalp.FGSM(eps)
        assert suite["pgd40"] == aalp.PGD(eps, step, 40)
        assert suite["cw100"] == aalp.CW(eps, step, 100)
    assert aalp.table2_suite("mnist-sample") == aalp.table2_suite("mnist")
    with pytest.raises(aalp.InputError, match="Did you mean 'cifar10'"):
        aalp.table2_suite("cifar")


def test_rounding_hides_images_of_the_undefended_network_from_fgsm(few):
    raw = aalp.pretrained("mnist/raw")
    plain = aalp.FGSM(0.3)
    exact = derived(plain, loss="exact_cross_entropy")
    left = aalp.evaluate(raw, few, {"plain": plain, "exact": exact})
    assert left["exact"].accuracy < left["plain"].accuracy / 3
    x, y = next(few.batches(len(few)))
    found = exact(raw, x, y)
    lead = -aalp.losses.margin(raw(x), y)
    wide = raw.double()
    off = (
        found - exact(wide, x.double(), y)
    ).abs() > 1e-6  # max pooling over equal values: processors choose another of them
    assert off.float().mean() < 1e-2
    off = (found - plain(wide, x.double(), y))[lead < 30].abs() > 1e-6  # beyond 36 float64 rounds as well
    assert off.float().mean() < 1e-2


def test_shared_trajectory_reads_what_separate_attacks_find(trained, few):
    report = aalp.evaluate(trained, few, SUITE)
    for name, attack in SUITE.items():
        alone = aalp.evaluate(trained, few, {name: attack})
        assert torch.equal(alone[name].correct, report[name].correct)


def test_consistent_and_inconsistent_divide_the_clean_right(trained, few):
    report = aalp.evaluate(trained, few, SUITE)
    consistent, inconsistent = report.consistent("pgd20"), report.inconsistent("pgd20")
    assert torch.equal(consistent ^ inconsistent, report["clean"].correct)
    assert not (consistent & inconsistent).any()
    assert inconsistent.any()
    assert report["pgd20"].accuracy == consistent.sum() / 120


def test_restarts_help_the_attacker_whatever_the_batches(trained, few):
    once, thrice = ({"pgd": aalp.PGD(0.12, 0.04, 4, restarts=n)} for n in (1, 3))
    first = aalp.evaluate(trained, few, once)["pgd"].correct
    for size in (120, 50):
        assert (aalp.evaluate(trained, few, thrice, batch_size=size)["pgd"].correct <= first).all()


def test_two_names_for_one_attack_read_the_same(trained, few):
    for reading in ("any", "last"):
        report = aalp.evaluate(trained, few, {"a": SUITE["pgd5"], "b": SUITE["pgd5"]}, reading=reading)
        assert torch.equal(report["a"].correct, report["b"].correct)


def test_attacks_may_have_any_names(trained, few):
    """Chapter 9 names them by their radius."""
    names = (0.05, 0.1, "0.05", "a-b", "a", "b", "progress", "a/b")
    suite = {name: aalp.PGD(0.1 + i / 100, 0.05, 4) for i, name in enumerate(names)}
    report = aalp.evaluate(trained, few, suite, progress=print)
    assert list(report) == ["clean", *names]
    assert report["b"].accuracy <= report[0.05].accuracy


def test_no_attack_takes_the_place_of_the_clean_column(trained, few):
    with pytest.raises(aalp.InputError, match="'clean' is the column without an attack"):
        aalp.evaluate(trained, few, {"clean": SUITE["fgsm"], "pgd5": SUITE["pgd5"]})


class Ended(torch.nn.Module):
    """What a function makes of another network's logits."""

    def __init__(self, network, end):
        super().__init__()
        self.network, self.end = network, end

    def forward(self, x):
        return self.end(self.network(x))


def test_outputs_that_look_like_probabilities_are_named_wherever_an_attack_begins(trained, few):
    model, pgd, few = Ended(trained, lambda z: z.softmax(1)), aalp.PGD(0.1, 0.02, 5), few[:20]
    with pytest.warns(UserWarning, match="look like probabilities: all 20 rows") as heard:
        aalp.evaluate(model, few, {"pgd": pgd})
    assert heard[0].filename == __file__
    with pytest.warns(UserWarning, match="look like probabilities"):
        aalp.diagnose(model, few, pgd, queries=0)
    with pytest.warns(UserWarning, match="look like probabilities") as heard:
        pgd(model, *next(few.batches(20)))
    assert heard[0].filename == __file__
    with pytest.warns(UserWarning, match="look like probabilities"):  # rounded to three digits, they sum to 1 nearly
        aalp.evaluate(Ended(trained, lambda z: z.softmax(1).bfloat16()), few, {"pgd": pgd})


@pytest.mark.parametrize(
    "end", [torch.sigmoid, torch.relu, lambda z: z.softmax(1) - 0.5, lambda z: z.log_softmax(1), lambda z: z / z.sum()]
)
@pytest.mark.filterwarnings("error:the model's outputs")
def test_logits_in_the_range_of_probabilities_are_taken_as_they_are(trained, few, end):
    aalp.evaluate(Ended(trained, end), few[:20], {"fgsm": aalp.FGSM(0.1)})
    aalp.FGSM(0.1)(Ended(trained, end), *next(few.batches(20)))


def test_seed_fixes_the_starts(trained, few):
    weak = {"pgd": aalp.PGD(0.2, 0.1, 2)}
    first, again, other = (aalp.evaluate(trained, few, weak, seed=seed)["pgd"].correct for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_last_reading_is_the_papers(trained, few):
    """Steps nearly as long as the radius make the iterates jump about."""
    suite = {f"pgd{k}": aalp.PGD(0.2, 0.15, k) for k in (2, 3, 5, 7, 12)}
    anytime, last = (aalp.evaluate(trained, few, suite, reading=reading) for reading in ("any", "last"))
    assert all((anytime[k].correct <= last[k].correct).all() for k in suite)
    assert any(last[k].accuracy > anytime[k].accuracy for k in suite)
    with pytest.raises(aalp.InputError, match="unknown reading 'best'"):
        aalp.evaluate(trained, few, suite, reading="best")


def test_robust_accuracy_of_a_linear_model_is_exact(generator):
    w = torch.randn(4, generator=generator)
    model = linear(torch.stack([-w, w]))
    images = torch.randint(64, 192, (200, 1, 2, 2), generator=generator, dtype=torch.uint8)
    labels = model(images / 255).argmax(1)
    split = aalp.Split(images, labels)
    slack = (images / 255).flatten(1) @ w
    robust = slack.abs() > 0.1 * w.abs().sum()
    report = aalp.evaluate(model, split, {"pgd": aalp.PGD(0.1, 0.02, 15), "cw": aalp.CW(0.1, 0.02, 15)})
    assert report["clean"].accuracy == 1
    assert 0 < robust.sum() < 200
    assert torch.equal(report["pgd"].correct, robust)
    assert torch.equal(report["cw"].correct, robust)


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (743, 1000), (1, 3)])
def test_wilson_interval_against_its_formula(right, count):
    z, p = norm.ppf(0.975), right / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (p * (1 - p) / count + z * z / (4 * count**2)) ** 0.5
    outcome = Outcome(torch.arange(count) < right)
    assert outcome.accuracy == p
    assert abs(outcome.low - max(0, middle - half)) < 1e-9
    assert abs(outcome.high - min(1, middle + half)) < 1e-9


def test_model_is_left_as_it_was_and_progress_counts_up(trained, few):
    trained.train()
    told = []
    aalp.evaluate(trained, few, SUITE, batch_size=50, progress=lambda *t: told.append(t))
    assert trained.training
    assert [t[0] for t in told] == sorted(t[0] for t in told)
    assert told[-1][0] == told[-1][1] == 3 * 21


L2 = aalp.PGD(1.0, 0.2, 20, norm="l2")


def test_a_number_says_whose_ball_it_is_of(trained, few):
    """No number under L2 or towards targets can be taken for one of the paper's, by name, in print or in a record."""
    suite, target = [aalp.FGSM(0.1), SUITE["pgd5"], L2, aalp.FGSM(1.0, norm="l2")], (few.labels + 1) % 10
    report, led = aalp.evaluate(trained, few, suite), aalp.evaluate(trained, few, suite, target=target)
    assert list(report) == ["clean", "fgsm", "pgd5", "l2-pgd20", "l2-fgsm"]
    assert list(led) == ["clean", "fgsm-targeted", "pgd5-targeted", "l2-pgd20-targeted", "l2-fgsm-targeted"]
    assert [outcome.ball for outcome in report.values()] == ["", "L∞ 0.1", "L∞ 0.1", "L2 1", "L2 1"]
    assert {outcome.ball for outcome in led.values()} == {"", "L∞ 0.1 to targets", "L2 1 to targets"}
    assert [name for name in report if "ball" in report[name].numbers] == ["l2-pgd20", "l2-fgsm"]
    assert [name for name in led if "ball" in led[name].numbers] == list(led)[1:]
    assert set(aalp.suite_in_ball(1.0, 0.2, norm="l2")) >= {"l2-fgsm", "l2-pgd100", "l2-cw10"}
    assert list(aalp.strong_suite(L2, 3)) == ["l2-pgd20x3", "l2-cw20x3"]
    assert "L2 1 to targets" in str(led)
    assert "lost when the model says its target" in str(led)
    assert "target" not in str(report)


def test_whatever_is_led_to_its_target_is_fooled(trained, few):
    """To a target is a longer way than to anything else; and the adversarial images of a call are what is counted."""
    strong = {"a": derived(L2, eps=3.0, step=0.5, steps=40), "b": aalp.CW(0.25, 0.05, 20)}
    target, (x, y) = (few.labels + 1) % 10, next(few.batches(len(few)))
    report, led = (
        aalp.evaluate(trained, few, strong),
        aalp.evaluate(trained, few, strong, target=target, reading="last"),
    )
    for name, attack in strong.items():
        right = report["clean"].correct
        assert 0 < led[name].correct.sum() < right.sum()
        assert report[name].correct.sum() < led[name].correct.sum()
        start = torch.Generator().manual_seed(seeds.derive(0, attack.loss, 0))
        seen = trained(attack(trained, x, y, target=target, generator=start)).argmax(1)
        assert torch.equal(led[name].correct, right & (seen != target))


def test_report_speaks(trained, few):
    report = aalp.evaluate(trained, few, SUITE)
    first, clean, *others = str(report).splitlines()
    assert first.split() == ["attack", "right", "95", "%", "interval", "images", "ball"]
    assert clean.split()[-2:] == ["of", "120"]
    assert [line.split()[0] for line in others] == list(SUITE)
    assert all(line.endswith("of 120  L∞ 0.1") for line in others)
    shown = aalp.Report(report.outcomes | {"<b>\n": report["pgd5"]})._repr_html_()
    assert shown.count("<tr>") == 6
    assert "&lt;b&gt;\N{REPLACEMENT CHARACTER}" in shown
    with pytest.raises(aalp.InputError, match="Did you mean 'pgd20'"):
        report["pgd2"]
    assert "pgd2" not in report
    assert report.get("pgd2") is None


def test_bad_input(trained, few):
    with pytest.raises(aalp.InputError, match="batch size must be a whole number of at least 1, got 0"):
        aalp.evaluate(trained, few, SUITE, batch_size=0)
    wide = aalp.Split(few.images.repeat(1, 3, 1, 1), few.labels)
    with pytest.raises(aalp.InputError, match=r"cannot take images of shape \(3, 28, 28\)"):
        aalp.evaluate(trained, wide, SUITE)


def test_strong_suite_has_the_balls_of_table_2():
    suite = aalp.strong_suite("cifar10")
    assert suite["pgd100x20"] == aalp.PGD(8 / 255, 2 / 255, 100, restarts=20)
    assert suite["cw100x20"] == aalp.CW(8 / 255, 2 / 255, 100, restarts=20)
    assert list(aalp.strong_suite(aalp.CW(0.1, 0.05, 7), restarts=3)) == ["pgd7x3", "cw7x3"]
    with pytest.raises(aalp.InputError, match="number of restarts must be a whole number of at least 1, got 0"):
        aalp.strong_suite("mnist", restarts=0)


def test_later_restarts_see_survivors_only(trained, few):
    """What restarts cost: the images that go through the network, not restarts times all of them."""
    few, seen = few[:30], []
    handle = trained.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    try:
        once = aalp.evaluate(trained, few, {"a": aalp.PGD(0.2, 0.05, 10)})["a"].correct
        first = sum(seen)
        seen.clear()
        aalp.evaluate(trained, few, {"a": aalp.PGD(0.2, 0.05, 10, restarts=20)})
    finally:
        handle.remove()
    assert int(once.sum()) < 20
    assert sum(seen) - first <= 19 * 11 * int(once.sum())


def test_numpys_numbers_are_numbers_and_its_arrays_are_refused(trained, few, tmp_path):
    attack = aalp.PGD(np.float32(0.1), torch.tensor(0.05), np.int64(4))
    assert [type(value) for value in (attack.eps, attack.step, attack.steps)] == [float, float, int]
    plain = aalp.PGD(attack.eps, attack.step, 4)
    found = aalp.evaluate(trained, few, {"a": attack}, batch_size=np.int64(50), seed=np.int64(3))
    assert torch.equal(found["a"].correct, aalp.evaluate(trained, few, {"a": plain}, seed=3)["a"].correct)
    x, y = next(few.batches(4))
    for call in (
        lambda: attack(trained, x.numpy(), y),
        lambda: attack(trained, x, y.tolist()),
        lambda: attack(trained, x, y, start=x.numpy()),
        lambda: aalp.Split(few.images.numpy(), few.labels),
        lambda: aalp.Split(few.images, few.labels.numpy()),
    ):
        with pytest.raises(aalp.InputError, match=r"must be a torch tensor, got (ndarray|list)"):
            call()
    for eps in ("8/255", torch.tensor([0.1, 0.2]), True, None):
        with pytest.raises(aalp.InputError, match="eps must be a number, got"):
            aalp.PGD(eps, 0.1, 4)


# --- what may be attacked, and with what


def test_what_fit_takes_is_evaluated_as_a_split_is(trained, few, sample):
    x, y = next(few.batches(len(few)))
    before = x.clone()
    batches = list(few.batches(50))
    others = {
        "data set": aalp.Dataset("few", sample.classes, sample.train, sample.val, few),
        "bytes": (few.images, few.labels),
        "pair": (x, y),
        "list": [x, y],
        "with gradient": (x.clone().requires_grad_(), y),
        "loader": DataLoader(TensorDataset(x, y), 50),
        "batches": batches,
        "two batches": [(x[:60], y[:60]), (x[60:], y[60:])],
        "generator": (batch for batch in batches),
    }
    wanted = aalp.evaluate(trained, few, SUITE)
    for name, other in others.items():
        found = aalp.evaluate(trained, other, SUITE)
        assert all(torch.equal(found[key].correct, wanted[key].correct) for key in wanted), name
    assert torch.equal(x, before)


def test_attacks_without_names_get_them(trained, few):
    fgsm, pgd, wider = aalp.FGSM(0.1), aalp.PGD(0.1, 0.02, 20), aalp.PGD(0.2, 0.02, 20)
    wanted = aalp.evaluate(trained, few, {"a": fgsm, "b": pgd, "c": wider})
    assert list(aalp.evaluate(trained, few, pgd)) == ["clean", "pgd20"]
    assert list(aalp.evaluate(trained, few, [fgsm, pgd])) == ["clean", "fgsm", "pgd20"]
    found = aalp.evaluate(trained, few, (pgd, fgsm, wider))
    assert list(found) == ["clean", str(pgd), "fgsm", str(wider)]
    for name, other in {"fgsm": "a", str(pgd): "b", str(wider): "c"}.items():
        assert torch.equal(found[name].correct, wanted[other].correct)


def test_what_cannot_be_attacked_is_said(trained, few):
    x, y = next(few.batches(4))
    pgd = aalp.PGD(0.1, 0.05, 4)
    bad = {
        "must be a Split, a Dataset": [None, 7, [], DataLoader(TensorDataset(x[:0], y[:0]))],
        "put it into a DataLoader": [TensorDataset(x, y)],
        r"pair of tensors \(images, labels\), got": ["mnist", [{"image": x, "label": y}], [x, x, x]],
        "do not go together": [[(x, y), (x[:, :, 1:], y)]],
        "must be a torch tensor": [(x.numpy(), y), (x, y.numpy())],
        "labels must be int64": [(x, y[:2]), (x, y.float())],
        "at least one image": [(x[:0], y[:0])],
    }
    for said, sources in bad.items():
        for source in sources:
            with pytest.raises(aalp.InputError, match=said):
                aalp.evaluate(trained, source, pgd)
    for suite in (None, "pgd", [pgd, trained], {"a": trained}, trained):
        with pytest.raises(aalp.InputError, match=r"suite must be an attack|must be of the class Attack"):
            aalp.evaluate(trained, few, suite)
    for model in (lambda images: trained(images), "mnist/raw", None):
        with pytest.raises(aalp.InputError, match=r"must be an nn\.Module"):
            pgd(model, x, y)
        with pytest.raises(aalp.InputError, match=r"must be an nn\.Module"):
            aalp.evaluate(model, few, pgd)
