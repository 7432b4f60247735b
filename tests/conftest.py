"""Shared pieces: small networks, digits, and the real data beside the checkout where there is some."""

import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

import aalp_lib as aalp
from aalp_lib.reproduction.jobs import Job
from aalp_lib.reproduction.settings import Setting

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sample():
    return aalp.load("mnist-sample")


@pytest.fixture
def digits(sample):
    return next(sample.test.batches(32))


@pytest.fixture(scope="module")
def trained(sample):
    torch.manual_seed(0)
    model = aalp.models.lenet((4, 8, 32))
    aalp.fit(model, sample, "adv", aalp.PGD(0.1, 0.05, 3), epochs=2, recipe=aalp.Recipe(lr=5e-3))
    return model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return aalp.models.lenet((4, 8, 32))


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def shared_data():
    if not SHARED.is_dir():
        pytest.skip("the full data sets are not beside the checkout (shared/data)")
    return SHARED


def heed_ctrl_c():
    """For `preexec_fn`: a shell may have started the tests with SIGINT ignored, which children would inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def quiet(make, *args, **kwargs):
    """Make an attack whose steps cannot reach eps, on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return make(*args, **kwargs)


def linear(weight, bias=None):
    """A classifier whose logits are a linear function of the pixels: every optimum is known in closed form."""
    classes, pixels = weight.shape
    head = torch.nn.Linear(pixels, classes).to(weight.dtype)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(torch.zeros(classes) if bias is None else bias)
    return aalp.Classifier(torch.nn.Flatten(), head).to(weight.dtype)


TINY = Setting({"name": "lenet", "width": [2, 4, 8]}, aalp.PGD(0.3, 0.15, 2), aalp.Recipe(epochs=1, batch_size=200))


def tiny(method, out, **changes):
    """A job of a second."""
    values = {"data": "mnist-sample", "method": method, "setting": TINY, "out": out, "test_images": 20}
    return Job(**(values | {"best_columns": ("pgd40",)} | changes))


def write_svhn(folder, count=30):
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        scipy.io.savemat(
            folder / f"{part}_32x32.mat",
            {
                "X": random.integers(0, 256, (32, 32, 3, count), dtype=np.uint8),
                "y": (np.arange(count) % 10 + 1).astype(np.uint8)[:, None],  # SVHN calls the digit 0 "10"
            },
        )
    return folder


def grey_split(classes, generator, count=60, side=4):
    """A linear model that sees neither overall brightness nor the first pixel, and images well inside [0, 1], labelled
    as it sees them."""
    weight = torch.randn(classes, side * side, generator=generator)
    weight[:, 0] = 0
    weight[:, 1:] -= weight[:, 1:].mean(1, keepdim=True)
    images = torch.randint(64, 192, (count, 1, side, side), generator=generator, dtype=torch.uint8)
    model = linear(weight)
    return model, weight, aalp.Split(images, model(images / 255).argmax(1))


class Rounded(torch.nn.Module):
    """Flattens, and rounds the pixels to black or white: the gradient of that is zero."""

    def forward(self, x):
        return x.round().flatten(1)


@pytest.fixture
def two(generator):
    return grey_split(2, generator)
