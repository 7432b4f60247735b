import json
import warnings

import matplotlib.pyplot as plt
import pytest
import torch

import aalp_lib as aalp
from aalp_lib import checkpoints, models
from aalp_lib.cli import main
from aalp_lib.reproduction import bench, plots_of_records, throughput


def test_attack_memory_is_flat_in_the_steps():
    (row,) = bench.memory_rows(2, 12)
    assert row.met, row


@pytest.mark.slow
def test_bench_measures_every_row(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["bench", "--quick", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "bench.json").read_text())
    said = {row["what"].split(":")[0].split(",")[0] for row in record["rows"]}
    assert said >= {"PGD", "a row of Table 2", "a TRADES step", "an AALP step", "peak memory"}
    assert all(row["reached"] > 0 for row in record["rows"])
    assert record["environment"]["foolbox"]
    assert "| What | Goal | Reached |" in (tmp_path / "bench.md").read_text()


def test_a_goal_is_met_on_its_own_side():
    for reached, least, most in ((1.4, False, True), (1.5, True, True), (1.6, True, False)):
        assert bench.at_least("PGD", 1.5, "a peer", reached, {}).met == least
        assert bench.at_most("PGD", 1.5, "a peer", reached, {}).met == most


def test_missing_peers_are_named_before_anything_is_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(bench.PEERS, "no-such-peer", None)
    assert main(["bench", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "no-such-peer" in said
    assert "pip install 'aalp_lib[bench]'" in said


def test_peers_find_the_same_images(trained, digits):
    """What is timed side by side does the same: every peer's images are ours, up to rounding."""
    attack, model, (x, y) = aalp.PGD(0.1, 0.025, 10), trained.eval(), digits
    ours = bench.ours(attack, model, x, y, "float32")
    for name, make in bench.PEERS.items():
        found = make(attack, model, x, y)()
        found = found[1] if isinstance(found, tuple | list) else found
        assert (torch.as_tensor(found) - ours).abs().gt(1e-4).float().mean() < 0.01, name
    torch.testing.assert_close(bench.bare(attack, model, x, y), ours, rtol=0, atol=1e-6)


def test_speed_figure_draws_medians():
    point = {"seconds": {n: {"median": 0.2, "low": 0.1, "high": 0.3} for n in plots_of_records.SPEED_STYLES}}
    figure = plots_of_records.speed(
        {"curves": {c: [{"at": k, **point} for k in (1, 2)] for c in ("steps", "batch", "threads")}}
    )
    assert list(figure.axes[1].lines[0].get_ydata()) == [200, 200]
    plt.close(figure)


def test_throughput_is_measured_on_any_device_beside_its_floors(tmp_path, monkeypatch):
    """What cannot run here, such as torch.compile without a compiler, is left out and stands as a dash."""

    def broken(*_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(bench, "_compiled", lambda *_: broken)
    record = {"quick": True, "rows": [], "environment": {"kept": "as it is"}}
    (tmp_path / "bench.json").write_text(json.dumps(record))
    found = bench.on_device(tmp_path, torch.device("cpu"), quick=True)
    assert found["environment"] == {"kept": "as it is"}
    assert checkpoints.read_json(tmp_path / "bench.json") == found
    assert set(found["gpu"]["networks"]) == {"mnist", "svhn", "cifar10"}
    rows = [row for (row,) in found["gpu"]["networks"].values()]
    assert all(
        row.keys() == {"batch", *throughput.RATES, *throughput.SHARES} - {"attack, torch.compile"} for row in rows
    )
    assert all(value > 0 for row in rows for value in row.values())
    assert "| cifar10 | 4 |" in throughput.markdown(found["gpu"])
    assert " | – | " in throughput.markdown(found["gpu"])


def test_work_of_a_step_is_what_its_layers_cost():
    model, x = models.lenet((4, 8, 32)), torch.rand(8, 1, 28, 28)
    flops, traffic = throughput.work(model, aalp.PGD(0.3, 0.3, 2), x)
    assert throughput.work(model, aalp.PGD(0.3, 0.3, 6), x)[1] == 2 * traffic  # 4 passes, 8 passes
    forward = 2 * (28 * 28 * 4 * 25 + 14 * 14 * 8 * 4 * 25 + 8 * 49 * 32 + 32 * 10)
    assert flops == 10 * forward
