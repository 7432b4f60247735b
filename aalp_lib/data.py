"""Whole data sets as tensors on a device: sources, splits, batches, augmentation."""

import contextlib
import gzip
import hashlib
import io
import itertools
import os
import unicodedata
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from aalp_lib import _checks
from aalp_lib._checks import InputError

VAL_FRACTION = 0.1
SVHN_IMAGES = (73_257, 26_032)  # training and test, official
SVHN_MD5 = {  # as published, of training and test
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
MNIST_MD5 = {  # of the files in the published archives
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
MNIST_BYTES = 16 + 60_000 * 28 * 28  # of the largest of these
_NOT_PUBLISHED = "is not {}'s published file (its MD5 is another): delete it, and it is downloaded anew"
MNIST_VAL = 6000  # the first training images: every digit of mnist-sample is among them


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images and labels that belong together.

    Attributes
    ----------
    images : uint8 tensor (N, C, H, W), values 0 to 255
    labels : int64 tensor (N,)

    Raises
    ------
    InputError
        If the split is empty or shapes and dtypes are others.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        _checks.tensor("the images of a split", self.images)
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise InputError(
                "the images of a split must be uint8 of shape (N, C, H, W), "
                f"got {self.images.dtype} of shape {tuple(self.images.shape)}"
            )
        if not len(self.images):
            raise InputError("a split must hold at least one image, got none")
        _checks.labels(self.labels, len(self.images), 2**31)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"{len(self)} images {'×'.join(str(n) for n in self.images.shape[1:])} on {self.images.device}"

    def __getitem__(self, rows: Tensor | slice) -> "Split":
        return type(self)(self.images[rows], self.labels[rows])

    def to(self, device: str | torch.device) -> "Split":
        """Return the split on `device`."""
        return type(self)(self.images.to(device), self.labels.to(device))

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images (n, C, H, W) float32 in [0, 1], labels (n,)), `size` at a time, the last one shorter.

        `order` (int64, any length) says which images and in which order; by default all, as they stand.
        """
        size = _checks.count("the batch size", size)
        if order is None:
            order = torch.arange(len(self), device=self.labels.device)
        for rows in order.split(size):
            yield to_float(self.images[rows]), self.labels[rows]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A named data set in three splits.

    Attributes
    ----------
    name : str
    classes : tuple of str, one for each label
    train, val, test : Split
        `val` is carved out of the official training set; the test set chooses nothing.

    Raises
    ------
    InputError
        If a label has no class.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split

    def __post_init__(self) -> None:
        for split in (self.train, self.val, self.test):
            _checks.labels(split.labels, len(split), len(self.classes))

    def __repr__(self) -> str:
        parts = f"train: {self.train}, val: {self.val}, test: {self.test}"
        return f"{self.name}, {len(self.classes)} classes; {parts}"

    def to(self, device: str | torch.device) -> "Dataset":
        """Return the data set on `device`."""
        return Dataset(self.name, self.classes, *(s.to(device) for s in (self.train, self.val, self.test)))


class _FloatSplit(Split):
    """A split whose images are floating point in [0, 1] already, of any shape (N, ...)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", _checks.images(self.images))
        if not len(self.images):
            raise InputError("there must be at least one image, got none")
        _checks.labels(self.labels, len(self.images), 2**31)


Labelled = Split | Dataset | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]


def split_of(source: Labelled) -> Split:
    """The images and labels that are meant: a data set's test split, a pair of tensors, or all that a loader gives.

    InputError if it is none of these; images are uint8, or floating point in [0, 1].
    """
    if isinstance(source, Dataset):
        return source.test
    found = paired(source)
    return found if isinstance(found, Split) else paired(_gathered(found))


def paired(source: Any) -> Any:
    """A split of a pair of tensors (images, labels), and anything else as it is; InputError where one is no tensor."""
    if not isinstance(source, tuple | list) or len(source) != 2 or isinstance(source[0], tuple | list):
        return source
    images, labels = source
    _checks.tensor("images", images)
    return Split(images, labels) if images.dtype == torch.uint8 else _FloatSplit(images.detach(), labels)


def _gathered(loader: Any) -> tuple[Tensor, Tensor]:
    """All images and labels of a loader."""
    if isinstance(loader, torch.utils.data.Dataset):
        raise InputError("a torch data set gives single images: put it into a DataLoader(data, batch_size=500)")
    batches = [pair(batch) for batch in loader] if isinstance(loader, Iterable) else []
    if not batches:
        raise InputError(
            "what is attacked must be a Split, a Dataset, a pair of tensors (images, labels) or a loader of such "
            f"pairs, and not be empty, got {type(loader).__name__}"
        )
    try:
        images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    except RuntimeError as error:
        raise InputError(f"the batches of the loader do not go together: {error}") from error
    return images, labels


def pair(batch: Any) -> tuple[Tensor, Tensor]:
    """The images and labels of a loader's batch; InputError unless it begins with these two tensors."""
    if not isinstance(batch, tuple | list) or len(batch) < 2 or not all(isinstance(t, Tensor) for t in batch[:2]):
        raise InputError(f"a batch must be a pair of tensors (images, labels), got {type(batch).__name__}")
    return batch[0], batch[1]


def load(
    name: str | Path,
    *,
    root: str | Path | None = None,
    device: str | torch.device = "cpu",
    image_size: int | tuple[int, int] | None = None,
) -> Dataset:
    """Load a whole data set onto a device.

    Parameters
    ----------
    name : str or path
        "mnist-sample" (shipped with the package), "mnist", "svhn", "cifar10", "svhn-part" (SVHN's two files with fewer
        images, under `root`), or a folder of the layout `train/CLASS/*.png`, `test/CLASS/*.png`, where `val/` may be.
        Photographs are turned as their EXIF tag says; hidden files and folders are no images and no classes.
    root : path, optional
        Folder that holds the files in torchvision's layout; what is missing there is downloaded. By default the
        user's cache, `$AALP_DATA` or `~/.cache/aalp_lib`.
    device : str or torch.device
        Where the tensors live; "auto" takes CUDA where there is one.
    image_size : int or (height, width), optional
        Resize the images of a folder (bilinear, antialiased).

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        Unknown name, unusable folder, an image that cannot be read (named), damaged bundled file.
    OSError
        A download that fails; the message says what to do offline.

    Warns
    -----
    UserWarning
        If a folder holds files that are left out, for they are of other formats or in no class.

    Examples
    --------
    >>> data = load("mnist-sample")
    >>> data.train.images.shape, len(data.val), len(data.test)
    (torch.Size([3600, 1, 28, 28]), 400, 1000)
    """
    target = _checks.device(device)
    _check_root(root)
    if str(name) in SOURCES:
        if image_size is not None:
            raise InputError(f"image_size is for a folder of images, not for '{name}'")
        return SOURCES[str(name)](_checks.path(root) if root is not None else None).to(target)
    folder = _checks.path(name)
    if not _checks.is_folder(folder):
        _checks.known(
            "data set", str(name), SOURCES, "A folder with train/CLASS/*.png and test/CLASS/*.png will do too."
        )
    return _load_folder(folder, image_size).to(target)


def present(name: str | Path, root: str | Path | None = None) -> bool:
    """Whether `load` would find the files without a download; they are not opened.

    InputError if `root`, or what a folder of images must hold, is not there.
    """
    _check_root(root)
    if str(name) not in SOURCES:
        for part in ("train", "test"):
            _check_part(_checks.path(name) / part)
    folder = _checks.path(root) if root is not None else cache()
    return all(any(folder.glob(pattern)) for pattern in _FILES.get(str(name), ()))


def _check_root(root: str | Path | None) -> None:
    if root is not None and not _checks.path(root).is_dir():
        raise InputError(f"root must be a folder that exists, got {root}")


def cache() -> Path:
    """Folder for downloads: `$AALP_DATA`, or `aalp_lib` in the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return Path(os.environ.get("AALP_DATA", home / "aalp_lib")).expanduser()


def to_float(images: Tensor) -> Tensor:
    """Turn uint8 images into float32 in [0, 1], same shape; floating-point ones stay as they are."""
    return images if images.is_floating_point() else images.float().div_(255)


def stratified(
    labels: Tensor, fraction: float, seed: int = 0, classes: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Divide rows into (rest, part), `part` holding `fraction` of every class, at least one image; sorted int64.

    Raises
    ------
    InputError
        If a class has fewer than two images.
    """
    found, sizes = labels.unique(return_counts=True)
    for label, size in zip(found.tolist(), sizes.tolist(), strict=True):
        if size < 2:
            name = classes[label] if classes else label
            raise InputError(f"class {name} has {size} training image; a validation split needs two")
    chosen = _drawn(labels, [max(1, round(fraction * size)) for size in sizes.tolist()], seed)
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[chosen] = False
    return torch.nonzero(rest)[:, 0], chosen


def _drawn(labels: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """`counts` rows of each class that there is, in the order of the classes, drawn at random; sorted int64."""
    generator, part = torch.Generator().manual_seed(seed), []
    for label, count in zip(labels.unique(), counts, strict=True):
        rows = torch.nonzero(labels == label)[:, 0]
        part.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    return torch.cat(part).sort().values


def random_crop(images: Tensor, padding: int, generator: torch.Generator | None = None) -> Tensor:
    """Pad every image (N, C, H, W) with `padding` zeros on each side and cut it out at a place of its own."""
    n, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    corner = torch.randint(2 * padding + 1, (2, n, 1), generator=generator).to(images.device)
    rows = corner[0] + torch.arange(height, device=images.device)  # (N, H)
    columns = corner[1] + torch.arange(width, device=images.device)  # (N, W)
    image = torch.arange(n, device=images.device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # from (N, H, W, C)


def random_flip(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Mirror each image (N, C, H, W) left to right with probability one half, each by a draw of its own."""
    flip = torch.randint(2, (len(images), 1, 1, 1), generator=generator).to(images.device) == 1
    return torch.where(flip, images.flip(3), images)


# --- sources ---------------------------------------------------------------------------------------------------------


def _load_sample(root: Path | None) -> Dataset:
    assets = resources.files("aalp_lib") / "assets"
    content = (assets / "mnist-sample.npz").read_bytes()
    if hashlib.sha256(content).hexdigest() != (assets / "mnist-sample.sha256").read_text().split()[0]:
        raise InputError("the bundled mnist-sample.npz is damaged (its checksum differs); reinstall aalp_lib")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        images, labels, part = (torch.from_numpy(stored[key]) for key in ("images", "labels", "part"))
    whole = Split(images[:, None], labels.long())
    return Dataset("mnist-sample", _DIGITS, *(whole[part == code] for code in range(3)))


def _load_mnist(root: Path | None) -> Dataset:
    """MNIST's four files, unpacked or not, each of which must be the published one."""
    folder = (root or cache()) / "MNIST" / "raw"
    if not all(_packed_or_not(folder / name).is_file() for name in MNIST_MD5):
        _torchvision("MNIST", root or cache(), train=True)
    train, test = (
        _from_arrays(
            np.frombuffer(_mnist_file(folder / f"{part}-images-idx3-ubyte"), np.uint8, offset=16).reshape(-1, 28, 28),
            np.frombuffer(_mnist_file(folder / f"{part}-labels-idx1-ubyte"), np.uint8, offset=8),
        )
        for part in ("train", "t10k")
    )
    return Dataset("mnist", _DIGITS, train[MNIST_VAL:], train[:MNIST_VAL], test)


def _mnist_file(path: Path) -> bytes:
    """The content of one of MNIST's files, or of its archive; InputError unless it is what was published."""
    path = _packed_or_not(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MNIST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); delete it, and it is downloaded anew") from error
    if _md5(content) != MNIST_MD5[path.name.removesuffix(".gz")]:
        raise InputError(f"{path} {_NOT_PUBLISHED.format('MNIST')}")
    return content


def _packed_or_not(path: Path) -> Path:
    """The file, or where it is missing the archive that holds it."""
    return path if path.exists() else path.with_name(f"{path.name}.gz")


def _load_svhn(root: Path | None) -> Dataset:
    """SVHN, found in `root` or its folder SVHN; one with other images than the official set is called "svhn-part"."""
    inside = root is not None and (root / "SVHN").is_dir()
    folder = root / "SVHN" if root and inside else root or cache()
    paths = [folder / name for name in SVHN_MD5]
    for path, part in zip(paths, ("train", "test"), strict=True):
        if not path.is_file() or (root is None and _md5(path.read_bytes()) != SVHN_MD5[path.name]):
            _torchvision("SVHN", folder, split=part)
    train, test = map(_svhn_file, paths, SVHN_IMAGES)
    name = "svhn" if (len(train), len(test)) == SVHN_IMAGES else "svhn-part"
    return _with_val(name, _DIGITS, train, test)


def _svhn_file(path: Path, published: int) -> Split:
    """The images and labels of one of SVHN's files; InputError if it is damaged.

    One of the `published` number of images must be the published one.
    """
    from scipy.io import loadmat  # slow to import

    content = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what scipy cannot read is no array, which is said below
            found = loadmat(io.BytesIO(content), variable_names=("X", "y"))
        images, labels = np.asarray(found["X"]), np.asarray(found["y"]).reshape(-1).astype(np.int64)
    except Exception as error:  # a damaged header raises almost anything
        raise InputError(f"{path} is no readable file of SVHN's layout ({error}); get it anew") from error
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)):
        raise InputError(f"{path} must hold X, bytes (32, 32, 3, N), and y (N,), got {images.dtype} {images.shape}")
    if not len(labels) or labels.min() < 1 or labels.max() > 10:
        raise InputError(f"{path} must have labels from 1 to 10, where 10 is the digit 0")
    if len(labels) == published and _md5(content) != SVHN_MD5[path.name]:
        raise InputError(f"{path} {_NOT_PUBLISHED.format('SVHN')}")
    return _from_arrays(images.transpose(3, 2, 0, 1), labels % 10)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _load_svhn_part(root: Path | None) -> Dataset:
    if root is None:
        raise InputError(
            "svhn-part is a part of SVHN that you have, not one to download; name its folder (root=..., --root)"
        )
    found = _load_svhn(root)
    if found.name != "svhn-part":
        raise InputError(f"{root} holds all of SVHN; call it 'svhn'")
    return found


def _load_cifar10(root: Path | None) -> Dataset:
    parts = [_torchvision("CIFAR10", root or cache(), train=train) for train in (True, False)]  # which checks all MD5s
    train, test = (_from_arrays(d.data.transpose(0, 3, 1, 2), d.targets) for d in parts)
    return _with_val("cifar10", tuple(parts[0].classes), train, test)


_DIGITS = tuple("0123456789")
SOURCES: dict[str, Callable[[Path | None], Dataset]] = {
    "mnist-sample": _load_sample,
    "mnist": _load_mnist,
    "svhn": _load_svhn,
    "svhn-part": _load_svhn_part,
    "cifar10": _load_cifar10,
}
_FILES = {  # in torchvision's layout, packed or unpacked
    "mnist": ("MNIST/raw/train-images*", "MNIST/raw/train-labels*", "MNIST/raw/t10k-images*", "MNIST/raw/t10k-labels*"),
    "svhn": ("**/train_32x32.mat", "**/test_32x32.mat"),
    "svhn-part": ("**/train_32x32.mat", "**/test_32x32.mat"),
    "cifar10": ("cifar-10-*py*",),
}


def _torchvision(name: str, folder: Path, **part: Any) -> Any:
    """A torchvision data set, downloaded if it is missing or damaged; OSError says what to do without a network."""
    from torchvision import datasets  # half of the time that importing this package would take

    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return getattr(datasets, name)(str(folder), **part, download=False)
        except RuntimeError:  # torchvision's word for "not here, or damaged"
            return getattr(datasets, name)(str(folder), **part, download=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise OSError(
            f"{name} is not in {folder}, or damaged, and could not be downloaded ({error}). Without a network, copy "
            "its files there in torchvision's layout, name their folder (root=..., --root), or use 'mnist-sample', "
            "which needs no download"
        ) from error


def _from_arrays(images: Any, labels: Any) -> Split:
    pixels = torch.as_tensor(np.require(images, requirements=["C", "W"]))
    labels = torch.as_tensor(np.array(labels)).long()
    return Split(pixels[:, None] if pixels.ndim == 3 else pixels, labels)


def _with_val(name: str, classes: tuple[str, ...], train: Split, test: Split) -> Dataset:
    rest, val = stratified(train.labels, VAL_FRACTION, classes=classes)
    return Dataset(name, classes, train[rest], train[val], test)


# --- a folder of images ----------------------------------------------------------------------------------------------

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow's others may start programs
LARGE, LARGEST = 2**24, 2**31  # pixels; of images beyond the first, one is in memory at a time
LARGEST_SIDE = 2**14
_IMAGES = f"images are {', '.join(EXTENSIONS)} inside train/CLASS and test/CLASS"


def name_of(data: str | Path) -> str:
    """The name of the data set that `load` would load: a known one, or that of a folder."""
    if str(data) in SOURCES:
        return str(data)
    name = _checks.path(data).resolve().name
    return name + "-folder" * (name in SOURCES)  # the reader's own copy is not the official set


def _load_folder(folder: Path, image_size: int | tuple[int, int] | None) -> Dataset:
    """Load `train/CLASS/*`, `test/CLASS/*` and, where it exists, `val/CLASS/*`.

    Images stay grey if all of them are, and are RGB otherwise. Without `val/`, a tenth of every class of `train/` is
    carved out. In the test split the classes take turns, so that images from its front are of all classes.
    """
    names = ("train", "val", "test") if (folder / "val").is_dir() else ("train", "test")
    samples = {part: _list_images(folder / part) for part in names}
    classes = sorted({sample.name for sample in samples["train"]})
    for part in names:
        _check_classes(folder / part, {sample.name for sample in samples[part]}, set(classes))
    samples["test"] = _in_turn(samples["test"])
    pixels = _read_images([sample.path for of in samples.values() for sample in of], image_size)
    number = {name: label for label, name in enumerate(classes)}
    labels = torch.tensor([number[sample.name] for of in samples.values() for sample in of])
    sizes = [len(of) for of in samples.values()]
    train, *val, test = map(Split, pixels.split(sizes), labels.split(sizes))
    name = name_of(folder)
    return Dataset(name, tuple(classes), train, val[0], test) if val else _with_val(name, tuple(classes), train, test)


def _check_classes(folder: Path, found: set[str], wanted: set[str]) -> None:
    more, less = (", ".join(map(_told_apart, sorted(names))) for names in (found - wanted, wanted - found))
    if more or less:
        differs = " and ".join(filter(None, (more and f"has the classes {more}", less and f"lacks the classes {less}")))
        raise InputError(f"{folder} {differs}; train has others")


def _told_apart(name: str) -> str:
    """A name in quotes; one that is not ASCII also as its code points, for it may look like another."""
    return repr(name) if name.isascii() else f"{name!r} ({ascii(name)[1:-1]})"


class _Sample(NamedTuple):
    """An image and its class: the name of its folder, in Unicode's composed form whatever system wrote it."""

    name: str
    path: Path


def _in_turn(samples: list[_Sample]) -> list[_Sample]:
    """The first of every class, then the second of every class, and so on."""
    turns: dict[str, Iterator[int]] = defaultdict(itertools.count)
    return sorted(samples, key=lambda sample: (next(turns[sample.name]), sample.name))


def _list_images(folder: Path) -> list[_Sample]:
    """The images below `folder/CLASS`, class by class; a warning counts the files that are left out."""
    _check_part(folder)
    try:
        entries = _not_hidden(folder)
        files = {place: _files(place) for place in entries if place.is_dir()}
    except OSError as error:
        raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from error
    outside = [path for path in entries if path not in files and _is_image(path)]
    left_out = Counter(path.suffix or path.name for path in outside)
    left_out += Counter(path.suffix or path.name for of in files.values() for path in of if not _is_image(path))
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
    samples = [
        _Sample(unicodedata.normalize("NFC", place.name), path)
        for place, of in files.items()
        for path in of
        if _is_image(path)
    ]
    empty = {unicodedata.normalize("NFC", place.name) for place in files} - {sample.name for sample in samples}
    if empty or not samples:
        of = f" of the classes {', '.join(map(_told_apart, sorted(empty)))}" if empty else ""
        raise InputError(f"{folder} is without images{of}; {_IMAGES}" + f", but there are {said}" * bool(said))
    if said:
        warnings.warn(f"left out of {folder}: {said}; {_IMAGES}", stacklevel=4)
    return sorted(samples, key=lambda sample: sample.name)  # within a class as they were


def _not_hidden(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    """All files below a folder, links followed but never round a loop, in the order of their folders and names."""
    part = folder.parent.resolve()
    found, todo = [], [(folder, frozenset([folder.resolve(), part, *part.parents]))]
    while todo:
        here, above = todo.pop()
        for path in _not_hidden(here):
            if not path.is_dir():
                found.append(path)
            elif (real := path.resolve()) not in above:
                todo.append((path, above | {real}))
    return sorted(found, key=lambda path: (str(path.parent), path.name))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS


def _check_part(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder} is missing; a folder of images needs train/CLASS/*.png and test/CLASS/*.png")


def _read_images(paths: list[Path], image_size: int | tuple[int, int] | None) -> Tensor:
    """All images as uint8 (N, C, H, W), C = 1 if every one of them is grey, else 3."""
    size = _two_sides(image_size) if image_size is not None else None
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda path: _read_image(path, size), paths))
    arrays = []
    for path, array in zip(paths, found, strict=True):
        if array is None:  # a large one, in this thread: others may keep the memory that it took
            array = _read_image(path, size, LARGEST)
        assert array is not None
        arrays.append(array)
    for path, array in zip(paths, arrays, strict=True):
        if array.shape[:2] != arrays[0].shape[:2]:
            raise InputError(
                f"images differ in size: {paths[0]} is {arrays[0].shape[:2]}, {path} is {array.shape[:2]} "
                "(height, width); pass image_size to resize them"
            )
    channels = 3 if any(array.ndim == 3 for array in arrays) else 1
    images = torch.empty(len(arrays), channels, *arrays[0].shape[:2], dtype=torch.uint8)
    for place, array in zip(images.numpy(), arrays, strict=True):
        place[...] = array if array.ndim == 2 else array.transpose(2, 0, 1)
    return images


def _two_sides(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = size if isinstance(size, tuple | list) and len(size) == 2 else (size, size)
    height, width = (_checks.count("the image size", side) for side in sides)
    if max(height, width) > LARGEST_SIDE:
        raise InputError(f"the image size must be at most {LARGEST_SIDE}, got {size}")
    return height, width


def _turn_upright(image: Image.Image) -> None:
    """Turn an image as its EXIF tag says."""
    with contextlib.suppress(Exception):  # a damaged tag raises almost anything; viewers then show what is stored
        ImageOps.exif_transpose(image, in_place=True)


def _read_image(path: Path, size: tuple[int, int] | None, most: int = LARGE) -> np.ndarray | None:
    """One image as uint8 (H, W) if it is grey, else (H, W, 3); None if it has more than `most` pixels."""
    if not path.is_file():
        raise InputError(f"cannot read the image {path}: it is a broken link or no regular file")
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode[0] in "IF":
                raise InputError(f"{path} has more than 8 bits a channel ({image.mode}); convert it to 8")
            return _pixels(image, size) if image.width * image.height <= most else None
    except InputError:
        raise
    except Exception as error:  # damaged images raise almost anything
        raise InputError(f"cannot read the image {path}: {error}") from error


def _pixels(image: Image.Image, size: tuple[int, int] | None) -> np.ndarray:
    image.load()
    _turn_upright(image)
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    pixels = image if image.mode == mode else image.convert(mode)
    return np.asarray(pixels if size is None else pixels.resize((size[1], size[0]), Image.Resampling.BILINEAR))
