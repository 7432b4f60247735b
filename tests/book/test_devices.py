"""Chapters on a GPU: what they draw at random lies where the images lie. The `meta` device stands for the GPU.

It computes nothing and refuses, as a GPU does, to work on a tensor from elsewhere. So what a cell defines, and what it
draws, can be tried there; what it prints cannot.
"""

import ast
from pathlib import Path

import pytest
import torch

import aalp_lib as aalp

nbformat = pytest.importorskip("nbformat", reason="the book's packages are not installed (extra 'book')")
BOOK = Path(__file__).resolve().parents[2] / "book"


def taken(number, *names):
    """The functions and variables of these names that a chapter's cells define, made where x, y and model are meta."""
    (path,) = BOOK.glob(f"{number:02d}-*.ipynb")
    model = aalp.models.lenet().to("meta").eval()
    x, y = torch.rand(8, 1, 28, 28, device="meta"), torch.zeros(8, dtype=torch.long, device="meta")
    found = {"torch": torch, "aalp": aalp, "model": model, "x": x, "y": y, "x_adv": x, "vjp": torch.func.vjp}
    found["jvp"] = torch.func.jvp
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and cell.id != "setup":
            for node in ast.parse(cell.source).body:
                if made(node) & set(names):
                    exec(compile(ast.Module([node], []), cell.id, "exec"), found)
    return found


def made(node):
    """What a statement binds."""
    if isinstance(node, ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def test_meta_refuses_a_mixture_as_a_gpu_does():
    with pytest.raises(RuntimeError, match="device"):
        torch.rand(3, device="meta") + torch.rand(3)


def test_chapter_1_draws_its_noise_where_the_images_are():
    of = taken(1, "project", "fgsm", "pgd", "margin", "far", "coin")
    assert of["far"].device.type == of["coin"].device.type == "meta"
    start = torch.Generator().manual_seed(0)
    for attacked in (
        of["fgsm"](of["model"], of["x"], of["y"], 0.3),
        of["pgd"](of["model"], of["x"], of["y"], 0.3, 0.1, 2, start),
    ):
        assert attacked.device.type == "meta"


def test_chapter_3_draws_its_noise_where_the_images_are():
    of = taken(3, "first_order", "gradient_form", "drawn", "u", "v", "speckled", "cases")
    assert {of[name].device.type for name in ("u", "v", "speckled")} == {"meta"}
    for start, delta in of["cases"].values():
        assert of["first_order"](of["model"], start, delta).device.type == "meta"
    assert of["gradient_form"](of["model"], of["x"], of["y"], 0.1).device.type == "meta"
