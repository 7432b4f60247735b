"""Damaged and hostile files of every kind that is read: each ends in a sentence that names it, or in the right result.

`python tests/test_fuzz.py 1000` tries a thousand files of each kind and prints what came of them.
"""

import contextlib
import gzip
import hashlib
import io
import json
import pickle
import random
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import scipy.io
import torch
from conftest import write_svhn
from PIL import Image
from safetensors.torch import load as load_tensors, save as save_tensors

import aalp_lib as aalp
from aalp_lib import checkpoints, data, zoo
from aalp_lib.reproduction import archive, comparisons, frames, packing, schema, single, tables, workers
from aalp_lib.reproduction.jobs import Origin

RESULTS = Path(__file__).resolve().parents[1] / "results" / "mnist"
CPU = torch.device("cpu")
FEW = 12  # files of each kind in the usual tests
HOSTILE = (
    None, True, -1, 0, 2**63, 10**30, 1e308, -1e-300, "", "8", "=1+1", "../../etc/passwd", "/etc/passwd", "\x1b[31m",
    "\ud800",
    [], {}, [[]], {"a": {}}, "x" * 10_000, [0] * 1000,
)  # fmt: skip
NOT_THIS = (
    b"", b"\0", b"<!DOCTYPE html><html><head><title>404</title></head></html>", pickle.dumps({"a": 1}), b"null", b"[]",
    b"{}", b'""', b"1e999", b"NaN", b"[" * 50_000, b'{"a":' * 20_000, "{}".encode("utf-16"), b"\xef\xbb\xbf{}",
    b"\xff\xfe\xfa",
    gzip.compress(b"hello"), b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"PK\x03\x04", b"PK\x05\x06" + bytes(18),
    b"\xff" * 8 + b"{}", b"\x02" + bytes(7) + b"{}", b"a" * 5000, bytes(5000),
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    `make` writes a good one, with what it needs, into a folder and returns its path. `read` gives what the library
    makes of it. `hostile` makes well-formed bytes that say something else, which may be believed.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    hostile: Callable[[random.Random, bytes], bytes] | None = None
    checked: bool = True  # whether the format tells of every damage
    sentence: tuple[type[BaseException], ...] = (aalp.InputError,)


# --- damage ----------------------------------------------------------------------------------------------------------


def flipped(draw: random.Random, content: bytes) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def overwritten(draw: random.Random, content: bytes) -> bytes:
    place, size = draw.randrange(len(content)), draw.randrange(1, 64)
    return content[:place] + draw.choice([draw.randbytes(size), bytes(size)]) + content[place + size :]


def truncated(draw: random.Random, content: bytes) -> bytes:
    return content[: draw.randrange(len(content))]


def cut(draw: random.Random, content: bytes) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + content[place + draw.randrange(1, 64) :]


def appended(draw: random.Random, content: bytes) -> bytes:
    return content + draw.randbytes(draw.randrange(1, 64))


def another_file(draw: random.Random, content: bytes) -> bytes:
    return draw.choice(NOT_THIS)


DAMAGE = (flipped, flipped, flipped, overwritten, truncated, cut, appended, another_file)


def changed(draw: random.Random, value: Any) -> Any:
    """A JSON value with something else at one place."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        return draw.choice(HOSTILE)
    key = draw.choice([*value]) if isinstance(value, dict) else draw.randrange(len(value))
    value = dict(value) if isinstance(value, dict) else list(value)
    if draw.random() < 0.1:
        del value[key]
    elif isinstance(value, dict) and draw.random() < 0.1:
        value[draw.choice(["extra", "", "__class__", "a" * 500])] = draw.choice(HOSTILE)
    else:
        value[key] = changed(draw, value[key])
    return value


def changed_json(draw: random.Random, content: bytes) -> bytes:
    """Another value, written as the library would, or by hand without a checksum."""
    values = json.loads(content)
    values.pop(checkpoints.CHECKSUM, None)
    values = changed(draw, values)
    by_hand = draw.random() < 0.5 or not isinstance(values, dict)
    return json.dumps(values).encode() if by_hand else checkpoints.sealed(values)


def changed_checkpoint(draw: random.Random, content: bytes) -> bytes:
    """Other tensors, or another description, with the checksum that belongs to them, or none."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])["__metadata__"]
    tensors, meta = load_tensors(content), json.loads(header["meta"])
    if draw.random() < 0.5:
        meta = changed(draw, meta)
    else:
        name = draw.choice([*tensors])
        value = tensors.pop(name)
        broken = [torch.full_like(value, of) for of in (torch.nan, torch.inf) if value.is_floating_point()]
        others = [value.flatten(), value[..., None], value.half(), value.int(), value.bool(), torch.zeros(0)]
        if draw.random() < 0.9:
            tensors[name] = draw.choice([*broken, *others, value.to(torch.complex64)])
    text = json.dumps(meta)
    with_checksum = {checkpoints.CHECKSUM: checkpoints._checksum(tensors, text)} if draw.random() < 0.8 else {}
    return save_tensors(tensors, {"format": checkpoints.FORMAT, "meta": text} | with_checksum)


def changed_pack(draw: random.Random, content: bytes) -> bytes:
    """A sound zip file with strange members."""
    made = io.BytesIO()
    warnings.filterwarnings("ignore", "Duplicate name")
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_LZMA) as new:
        for info in old.infolist():
            text = changed_json(draw, old.read(info)) if draw.random() < 0.5 else old.read(info)
            new.writestr(draw.choice([info.filename, "../" * 5 + "a.json", "/a.json", "ablations/b.json"]), text)
    return made.getvalue()


# --- the kinds -------------------------------------------------------------------------------------------------------


def few() -> aalp.Dataset:
    sample = aalp.load("mnist-sample")
    return aalp.Dataset("few", sample.classes, sample.train[:20], sample.val[:10], sample.test[:10])


def fitted(folder: Path, **how: Any) -> aalp.Classifier:
    torch.manual_seed(0)
    model = aalp.models.lenet((2, 3, 4))
    aalp.fit(model, few(), "adv", aalp.PGD(0.3, 0.3, 1), epochs=2, out=folder, **how)
    return model


def weights(model: aalp.Classifier) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


def trained(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        fitted(folder)
        Origin("mnist-sample", None, 28).save(folder)
        return folder / name

    return make


def read_run(path: Path) -> Any:
    run = single.Run.load(str(path.parent), "last", CPU)
    return run.config, run.origin, run.subject, run.suite(few())


def read_note(path: Path) -> Any:
    told: list[Any] = []
    job = mock.Mock(run=path.parent)
    workers._tell([job], lambda _job, *said: told.append(said))
    if not told:  # the bar stands still
        raise aalp.InputError(path.name)
    return told


def make_note(folder: Path) -> Path:
    path = folder / workers.NOTE
    path.write_text(json.dumps({"done": 3, "total": 10, "text": "epoch 1/2"}))
    return path


def make_record(folder: Path, place: str = "", method: str = "alp") -> Path:
    """As it is written today, with a checksum."""
    name = f"mnist-{method}-seed0.json"
    return schema.load(RESULTS / place / name).save(folder / place / name)


def read_records(path: Path) -> Any:
    return used(archive.records(path.parent))


def used(found: archive.Records) -> Any:
    """All that `aalp results` does with records; what is left out is named."""
    if found.left_out:
        raise aalp.InputError(" ".join(found.left_out))
    lines = frames.frame(found)
    comparisons.lead(lines), comparisons.order(lines)
    for number in tables.TABLES:
        tables.beside_paper(found, number)
    tables.runs(found), tables.costs(found), tables.counted(found), tables.signs(found, "mnist")
    return found.runs, found.measurements


def make_index(folder: Path) -> Path:
    fitted(folder / "run")
    packing.pack(folder / "run", "few/adv", folder)
    return folder / zoo.INDEX


def make_pack(folder: Path) -> Path:
    make_record(folder / "a", method="alp")
    make_record(folder / "a", "samples")
    return archive.pack(folder / "a", folder / "records.zip")


def read_pack(path: Path) -> Any:
    return used(archive.unpacked(path))


def arrays(dataset: aalp.Dataset) -> list[bytes]:
    splits = (dataset.train, dataset.val, dataset.test)
    return [part.numpy().tobytes() for split in splits for part in (split.images, split.labels)]


def make_mnist(folder: Path, suffix: str = "") -> Path:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in data.MNIST_MD5:
        content = mnist_content(name)
        (raw / f"{name}{suffix}").write_bytes(gzip.compress(content, mtime=0) if suffix else content)
    return raw / f"train-images-idx3-ubyte{suffix}"


def mnist_content(name: str) -> bytes:
    numbers = np.random.default_rng(0)
    if "images" in name:
        return bytes(16) + numbers.integers(0, 256, (60, 28, 28), np.uint8).tobytes()
    return bytes(8) + (np.arange(60) % 10).astype(np.uint8).tobytes()


def read_mnist(path: Path) -> Any:
    sums = {name: hashlib.md5(mnist_content(name)).hexdigest() for name in data.MNIST_MD5}
    with mock.patch.multiple(data, MNIST_MD5=sums, MNIST_VAL=20):
        return arrays(aalp.load("mnist", root=path.parents[2]))


def make_svhn(folder: Path) -> Path:
    write_svhn(folder)
    for name in ("train", "test"):
        path = folder / f"{name}_32x32.mat"
        found = scipy.io.loadmat(path)
        scipy.io.savemat(path, {key: found[key] for key in "Xy"}, do_compression=True)
    return folder / "train_32x32.mat"


def batches() -> dict[str, bytes]:
    """CIFAR-10's files with four images each."""
    numbers = np.random.default_rng(0)
    images = {"data": numbers.integers(0, 256, (20, 3072), np.uint8), "labels": [*range(10)] * 2}
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return dict.fromkeys(names, pickle.dumps(images)) | {"batches.meta": pickle.dumps({"label_names": [*"abcdefghij"]})}


def make_cifar10(folder: Path) -> Path:
    place = folder / "cifar-10-batches-py"
    place.mkdir()
    for name, content in batches().items():
        (place / name).write_bytes(content)
    return place / "data_batch_3"


def read_cifar10(path: Path) -> Any:
    from torchvision.datasets import CIFAR10

    sums = [[name, hashlib.md5(content).hexdigest()] for name, content in batches().items()]
    lists = {"train_list": sums[:5], "test_list": sums[5:6], "meta": CIFAR10.meta | {"md5": sums[6][1]}}
    refused = mock.patch("urllib.request.urlopen", side_effect=OSError("no network"))
    with mock.patch.multiple(CIFAR10, **lists), refused, contextlib.redirect_stdout(io.StringIO()):
        return arrays(aalp.load("cifar10", root=path.parents[1]))


def images(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        numbers = np.random.default_rng(0)
        for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
            (folder / place).mkdir(parents=True)
            for i in range(2):
                pixels = numbers.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / place / f"{i}.{suffix}", exif=Image.Exif())
        return folder / "train" / "dog" / f"1.{suffix}"

    return make


def read_images(path: Path) -> Any:
    return arrays(aalp.load(path.parents[2], image_size=16))


KINDS = {
    "checkpoint, loaded": Kind(
        trained(checkpoints.LAST), lambda path: weights(aalp.load_model(path)), changed_checkpoint
    ),
    "checkpoint, resumed": Kind(
        trained(checkpoints.LAST), lambda path: weights(fitted(path.parent, resume=True)), changed_checkpoint
    ),
    "run.json": Kind(trained("run.json"), read_run, changed_json),
    "run.json, resumed": Kind(
        trained("run.json"), lambda path: weights(fitted(path.parent, resume=True)), changed_json
    ),
    "data.json": Kind(trained("data.json"), lambda path: Origin.read(path.parent), changed_json),
    "progress.json": Kind(make_note, read_note, changed_json, checked=False),
    "record": Kind(make_record, read_records, changed_json),
    "measurement": Kind(lambda folder: make_record(folder, "samples"), read_records, changed_json),
    "index.json": Kind(make_index, lambda path: weights(aalp.pretrained("few/adv", folder=path.parent)), changed_json),
    "records.zip": Kind(make_pack, read_pack, changed_pack),
    "MNIST, raw": Kind(make_mnist, read_mnist),
    "MNIST, gz": Kind(lambda folder: make_mnist(folder, ".gz"), read_mnist),
    "SVHN": Kind(make_svhn, lambda path: arrays(aalp.load("svhn", root=path.parent))),
    "CIFAR-10": Kind(make_cifar10, read_cifar10, sentence=(OSError,)),
    "PNG": Kind(images("png"), read_images),
    "JPEG": Kind(images("jpg"), read_images, checked=False),
    "TIFF": Kind(images("tif"), read_images, checked=False),
    "WebP": Kind(images("webp"), read_images, checked=False),
    "BMP": Kind(images("bmp"), read_images, checked=False),
}


# --- what comes of them ----------------------------------------------------------------------------------------------


def outcomes(kind: Kind, folder: Path, count: int, seed: int = 0) -> Iterator[str]:
    """What came of each of `count` files: "sentence", "right", or, where the file could not be told from a good one,
    "believed"; anything else is a fault, and says how it was made.
    """
    path = kind.make(folder)
    good, right = path.read_bytes(), kind.read(path)
    for i in range(count):
        draw = random.Random(f"{seed} {i}")
        damage = kind.hostile if kind.hostile and i % 2 else draw.choice(DAMAGE)
        try:
            content = damage(draw, good)
        except (UnicodeError, ValueError, RecursionError):  # a value that nobody can write
            continue
        path.write_bytes(content)
        if content != good:
            yield _outcome(
                kind, path, right, trusted=damage is kind.hostile or not kind.checked, said=f"{damage.__name__} {i}"
            )
    path.write_bytes(good)


def _outcome(kind: Kind, path: Path, right: Any, trusted: bool, said: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = kind.read(path)
    except kind.sentence as error:
        named = any(str(place) in str(error) for place in (path.name, path.parent, path.parents[1], "few/adv"))
        return "sentence" if named and "Traceback" not in str(error) else f"unnamed: {said}: {error}"
    except Exception as error:
        return f"traceback: {said}: {type(error).__name__}: {error}"
    return "right" if found == right else "believed" if trusted else f"silently other: {said}"


FINE = {"sentence", "right", "believed"}


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_or_hostile_file_ends_in_a_sentence_or_in_the_right_result(name, tmp_path):
    found = Counter(outcomes(KINDS[name], tmp_path, FEW))
    assert set(found) <= FINE, found
    assert found["sentence"] or name == "progress.json"  # which is shown and no more


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[2:] or KINDS:
        with tempfile.TemporaryDirectory() as place:
            found = Counter(outcomes(KINDS[name], Path(place), int(sys.argv[1])))
        print(f"{name:>20}", *(f"{key} {found.pop(key, 0)}" for key in sorted(FINE)), flush=True)
        for said, times in found.items():
            print(f"{'':>20} {times} × {said}"[:400], flush=True)
