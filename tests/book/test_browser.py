"""The graphs that the live page runs compute what the library computes."""

import gzip
import json

import numpy as np
import pytest
import torch

import aalp_lib as aalp
from aalp_lib import InputError
from aalp_lib.book import browser
from aalp_lib.methods import TABLE_2

onnx = pytest.importorskip("onnx", reason="the book's packages are not installed (extra 'book')")
pytest.importorskip("onnxscript", reason="the book's packages are not installed (extra 'book')")
reference = pytest.importorskip("onnx.reference")
NAMES = ("raw", "trades", "aalp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("live")
    browser.write(home, count=200)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loss", range(3), ids=browser.LOSSES)
def test_a_graph_equals_autograd(folder, digits, name, loss):
    """Beside a digit; at the digit itself a sure network's p - 1 is rounding and nothing else."""
    model, graph = aalp.pretrained(f"mnist/{name}"), reference.ReferenceEvaluator(str(folder / f"{name}.onnx"))
    x, y = digits[0][:1], digits[1][:1]
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(3))
    given = ((x + 0.3 * (2 * noise - 1)).clamp(0, 1), y, model(x).detach(), torch.eye(3)[loss])
    found = graph.run(None, {key: value.numpy() for key, value in zip(browser.INPUTS, given, strict=True)})
    for mine, theirs in zip(found, browser.step(model, *given), strict=True):
        assert float(theirs.abs().max()) > 0
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=0, atol=1e-6 * max(1.0, float(theirs.abs().max())))


@pytest.mark.slow
def test_the_page_gets_every_row_of_table_2_and_the_digits(folder, sample):
    about = json.loads((folder / "live.json").read_text())
    assert [network["name"] for network in about["networks"]] == list(TABLE_2)
    assert all((folder / f"{network['name']}.onnx").stat().st_size == network["bytes"] for network in about["networks"])
    x, y = next(sample.test.batches(200))
    pixels = np.frombuffer(gzip.decompress((folder / "digits.bin").read_bytes()), np.uint8).reshape(x.shape)
    assert np.array_equal(pixels / np.float32(255), x.numpy())
    assert about["labels"] == "".join(map(str, y.tolist()))
    assert about["runtime"] is None


@pytest.mark.slow
def test_what_the_page_says_to_look_for(sample):
    """Far from the strokes PGD changes at least five times as much on the networks that pair no logits; two digits."""
    x, y = next(sample.test.batches(36))
    x, y = torch.cat((x[:20], x[[26, 35]])), torch.cat((y[:20], y[[26, 35]]))
    far = torch.nn.functional.max_pool2d(x, 5, 1, 2) == 0
    moved, right = {}, {}
    for name in TABLE_2:
        model, attack = aalp.pretrained(f"mnist/{name}"), aalp.attacks.Attack(0.3, 0.01, 40, start="clean")
        x_adv = attack(model, x, y)
        moved[name] = float((x_adv - x).abs()[far].mean())
        right[name] = (model(x_adv).argmax(1) == y)[-2:].tolist()
    assert right["alp"] == [False, True]
    assert right["aalp"] == [True, False]
    pairing = {"alp", "aalp_gd", "aalp_sw", "aalp"}
    assert min(moved[name] for name in moved if name not in pairing) > 5 * max(moved[name] for name in pairing)


def test_what_cannot_be_exported_is_named(tmp_path):
    strided = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, stride=2), torch.nn.Flatten(), torch.nn.Linear(338, 10))
    with pytest.raises(InputError, match="stride 1, got"):
        browser.exported(aalp.models.wrap(strided))
    with pytest.raises(InputError, match="Classifier"):
        browser.exported(strided)
    (tmp_path / "dist").mkdir()
    with pytest.raises(InputError, match=r"has no ort\.wasm\.min\.mjs"):
        browser.write(tmp_path, tmp_path / "dist")
