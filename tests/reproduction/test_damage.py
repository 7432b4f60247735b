"""No damage to one file ends `aalp results`: it is named or does no harm, and what is sound beside it still appears."""

import copy
import json
import random
import shutil
import warnings
from pathlib import Path

import pytest

from aalp_lib.reproduction import archive, comparisons, figures, frames, tables

RESULTS = Path(__file__).resolve().parents[2] / "results" / "mnist"
DELETED = object()
DAMAGE = (None, "8", 8, [], {}, DELETED)
TABULATED = ("", "strong", "diagnosis", "samples", "attacks")
DRAWN = {"contributions": 0, "activation": 0, "examples": 0, "over_training": 1, "samples": 0}  # seed


def paths(value, depth=4, before=()):
    """The places in a JSON document, down to a depth; of a list its last, of what is alike in a dict the last two."""
    keys = value if isinstance(value, dict) else range(len(value))[-1:] if isinstance(value, list) else ()
    for key in keys:
        yield (*before, key)
    shapes = {}
    for key in keys:
        shapes.setdefault(json.dumps(sorted(value[key]) if isinstance(value[key], dict) else None), []).append(key)
    for key in (key for alike in shapes.values() for key in alike[-2:] if depth > 1):
        yield from paths(value[key], depth - 1, (*before, key))


def damaged(document, path, by):
    document = copy.deepcopy(document)
    place = document
    for key in path[:-1]:
        place = place[key]
    if by is DELETED:
        del place[path[-1]]
    else:
        place[path[-1]] = by
    return document


def lay_out(folder, kinds, methods, seeds=(0,)):
    for kind in kinds:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in (f"mnist-{method}-seed{seed}.json" for method in methods for seed in seeds):
            shutil.copy(RESULTS / kind / name, folder / kind / name)


def use(found):
    """All that `aalp results` does with records, but for the figures; returns the frame."""
    lines = frames.frame(found)
    comparisons.lead(lines), comparisons.order(lines)
    for number in tables.TABLES:
        tables.beside_paper(found, number)
    tables.runs(found), tables.costs(found), tables.counted(found), tables.signs(found, "mnist")
    found.select(data="mnist", method="alp", recipe="fast")
    return lines.drop(columns=["right", "group"])


@pytest.mark.parametrize("kind", TABULATED)
def test_damage_to_a_file_is_named_or_does_no_harm(tmp_path, kind):
    lay_out(tmp_path, [""], ["alp", "aalp"], seeds=(0, 1))
    lay_out(tmp_path, TABULATED[1:], ["alp", "aalp"])
    sound = use(archive.records(tmp_path))
    file = tmp_path / kind / "mnist-alp-seed0.json"
    document = json.loads(file.read_text())
    cases = [(path, by) for path in paths(document) for by in DAMAGE]
    for path, by in random.Random(0).sample(cases, 30):
        file.write_text(json.dumps(damaged(document, path, by)))
        found = archive.records(tmp_path)
        said, lines = "".join(found.left_out), use(found)
        assert len(found.left_out) == (str(file) in said), (path, by, said)
        assert len(found.runs) + len(found.measurements) + len(found.left_out) == 12
        beside = lines["run"] != "mnist-alp-seed0"
        assert (
            lines[beside].reset_index(drop=True).equals(sound[sound["run"] != "mnist-alp-seed0"].reset_index(drop=True))
        )


@pytest.mark.parametrize("kind", DRAWN)
def test_a_figure_leaves_out_what_it_cannot_draw(tmp_path, kind):
    methods = ["alp"] if kind == "examples" else ["alp", "aalp"]
    lay_out(tmp_path, [kind], methods, seeds=[DRAWN[kind]])
    sound = drawn(tmp_path, kind)[0]
    assert sound
    file = tmp_path / kind / f"mnist-alp-seed{DRAWN[kind]}.json"
    document = json.loads(file.read_text())
    cases = [(path, by) for path in paths(document, 5) for by in DAMAGE]
    for path, by in random.Random(0).sample(cases, 6):
        file.write_text(json.dumps(damaged(document, path, by)))
        names, said, left_out = drawn(tmp_path, kind)
        assert names <= sound, (path, by)
        assert names == sound or left_out or said, (path, by)


def drawn(folder, kind):
    """Names of the figures of one kind of measurement, what was warned of, and which files were left out."""
    found = archive.records(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = figures.every({kind: [m for m in found.measurements.values() if m.kind == kind]})
    return {*made}, [str(w.message) for w in caught], found.left_out
