import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import heed_ctrl_c, tiny
from PIL import Image
from torchvision.datasets import ImageFolder

import aalp_lib as aalp
from aalp_lib import checkpoints, cli, data
from aalp_lib.autoattack import QUERIES, installed
from aalp_lib.book import chapter
from aalp_lib.cli import COMMANDS, main
from aalp_lib.methods import METHODS
from aalp_lib.models import LIBRARIES, MODELS
from aalp_lib.reproduction import archive, display, measurements, tables
from aalp_lib.reproduction.grids import GRIDS
from aalp_lib.reproduction.schema import Measurement, Record

RESULTS = Path(__file__).resolve().parents[1] / "results"
SMALL = ("--data", "mnist-sample", "--epochs", "1", "--steps", "2", "--step", "0.15", "--threads", "1")


def run(capsys, *arguments):
    """Exit status, standard output and standard error of a call, white space folded."""
    status = main([str(a) for a in arguments])
    said = capsys.readouterr()
    return status, re.sub(r"\s+", " ", said.out), said.err


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_has_an_example_and_a_line_for_each_option(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert re.search(r"(example|start with):\n  aalp \w+", text)
    assert not re.search(r"^  --\S+( [A-Z_]+)?\n(  -|\n)", text, re.MULTILINE)


def test_help_comes_without_torch():
    for command in ([], ["train"]):
        code = f"import sys; from aalp_lib import cli; cli.main({[*command, '--help']})"
        done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
        assert done.stdout.startswith("usage: aalp")
        assert "| torch" not in done.stderr


def test_help_names_what_there_is(capsys):
    known = {"--method": METHODS, "--model": (*MODELS, *LIBRARIES), "--data": data.SOURCES}
    for option, names in known.items():
        assert all(name in cli.COMMANDS["train"].options[option]["help"] for name in names)
    assert set(GRIDS) == set(cli.COMMANDS["reproduce"].options["grid"]["choices"])
    assert all(kind in cli.COMMANDS["measure"].options["--kinds"]["help"] for kind in measurements.KINDS)
    assert str(QUERIES) in cli.COMMANDS["diagnose"].options["--queries"]["help"]
    assert tuple(aalp.table2_suite("mnist")) == cli.COLUMNS
    assert cli.COMMANDS["results"].options["--table"]["choices"] == tuple(tables.CAPTIONS)


def test_no_command_shows_the_help(capsys):
    assert run(capsys)[0] == 0


def test_every_command_of_the_readme_is_understood():
    text = (RESULTS.parent / "README.md").read_text()
    calls = [shlex.split(line, comments=True) for line in re.findall(r"^aalp .*", text, re.MULTILINE)]
    assert len(calls) > 4
    for _, *arguments in calls:
        assert cli.parser().parse_args(arguments).command == arguments[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--out", "a", "--eps", "abc"),
        ("train", "--out", "a", "--lr", "1e400"),
        ("train", "--out", "a", "--eps", "1e999999999"),
        ("measure", "mnist", "--seeds", "abc"),
    ],
)
def test_what_is_no_number_is_named(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    assert caught.value.code == 2
    assert f"'{arguments[-1]}'" in capsys.readouterr().err


def test_the_home_folder_is_found_wherever_it_is_written(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = cli.parser().parse_args(["train", "--data=~/pictures", "--root=~/sets", "--out=~/run"])
    assert (found.data, found.root, found.out) == (str(tmp_path / "pictures"), tmp_path / "sets", tmp_path / "run")


def test_hostile_paths_under_a_console_of_ascii(tmp_path):
    """Control characters, markup and letters that the console lacks, in what is written and in what is wrong."""
    out, ours = tmp_path / "a\x1b[31m [red]é", ("COLUMNS", "PYTHONUTF8")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    for more, status in (("--images", "4"), 0), (("--eps", "\x1b[31m"), 2):
        call = [sys.executable, "-m", "aalp_lib", "attack", "mnist/raw", "--attack", "fgsm", "--out", str(out), *more]
        done = subprocess.run(call, capture_output=True, env=environment)
        assert done.returncode == status
        assert b"Traceback" not in done.stderr
        assert b"\x1b" not in done.stdout + done.stderr
        assert status or b"?[31m [red]?/sheet.png" in done.stdout
    assert (out / "sheet.png").exists()


def test_a_full_disk_is_one_sentence_that_names_the_folder(capsys, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "out"
    call = ("evaluate", "mnist/raw", "--images", "4", "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_atomically", full)
        status, _, err = run(capsys, *call)
        assert (status, err) == (2, f"aalp: {out}: No space left on device\n")
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    status, said, err = run(capsys, *call)
    assert (status, said) == (2, "")  # before the attacks
    assert err == f"aalp: the output folder {out} cannot be written (No space left on device)\n"


def test_the_record_of_a_bundled_network_says_how_it_was_trained(capsys, tmp_path):
    assert run(capsys, "evaluate", "mnist/aalp", "--images", "4", "--out", tmp_path)[0] == 0
    (path,) = (tmp_path / "evaluations").glob("*.json")
    assert Record.load(path).config["recipe"] == archive.records().runs["mnist/mnist-aalp-seed0"].config["recipe"]


def test_info_and_data_describe_what_is_there(capsys):
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert all(name in out for name in (*METHODS, *MODELS, *data.SOURCES, "mnist/aalp_gd"))
    status, out, _ = run(capsys, "data", "mnist-sample")
    assert status == 0
    assert "10 classes, images 1×28×28" in out
    assert "all │ 3600 │ 400 │ 1000" in out


def test_train_then_evaluate_as_a_person_would_guess(capsys, tmp_path):
    out = tmp_path / "my runs" / "[red]a [/]"  # neither a word of a shell nor markup
    status, said, _ = run(capsys, "train", *SMALL, "--method", "aalp", "--out", out)
    assert status == 0
    assert "validation:" in said
    _, *following = shlex.split(said.partition("next: ")[2])
    assert json.loads((out / "run.json").read_text())["attack"]["steps"] == 2
    status, said, _ = run(capsys, *following, "--images", "40")
    assert status == 0
    assert f"wrote {out}/evaluations/mnist-sample-last" in said
    assert "AALP on mnist-sample, last epoch, eps 0.3, step 0.01" in said
    assert all(name in said for name in ("Clean", "FGSM", "PGD-100", "CW-40"))
    record = Record.load(out / "evaluations" / "mnist-sample-last-any-seed0-first40.json")
    assert record.accuracy["last"]["pgd40"]["count"] == 40
    assert record.config["reading"] == "any"
    assert run(capsys, "evaluate", out, "--images", "40", "--precision", "bfloat16")[0] == 0
    assert (out / "evaluations" / "mnist-sample-last-any-seed0-bfloat16-first40.json").exists()
    assert run(capsys, "evaluate", out, "--images", "30", "--precision", "auto")[0] == 0
    (auto,) = (out / "evaluations").glob("*first30.json")
    assert auto.name.endswith(("seed0-first30.json", "seed0-bfloat16-first30.json"))
    assert ("bfloat16" in auto.name) == (Record.load(auto).config["evaluation_precision"] == "bfloat16")
    assert run(capsys, "evaluate", out, "--which", "best", "--images", "20", "--reading", "last")[0] == 0


def test_diagnose_shows_and_keeps_what_it_measured(capsys, tmp_path):
    runs = tmp_path / "runs"
    for method in ("raw", "adv"):
        assert run(capsys, "train", *SMALL, "--method", method, "--out", runs / method)[0] == 0
    few = ("--images", "8", "--queries", "3", "--threads", "1")
    status, said, _ = run(capsys, "diagnose", runs / "adv", *few, "--source", runs / "raw", "--strong")
    assert status == 0
    assert "Madry on mnist-sample, last epoch, eps 0.3, 100 steps of 0.01" in said
    assert all(name in said for name in ("eps 0.5", "200 steps", "20 starts", "Transfer", "gradient of exactly 0"))
    assert all(name in said for name in ("PGD-100, 20 starts", "CW-100, 20 starts"))
    assert ("Square" in said and "APGD-T" in said) if installed() else "Without the extra" in said
    found, strong = (
        Measurement.load(runs / "adv" / "measurements" / f"mnist-sample-last-{kind}-seed0-first8.json")
        for kind in ("diagnosis", "strong")
    )
    assert found.subject == {"data": "mnist-sample", "method": "adv", "seed": 0, "model": "last"}
    assert found.config["source"]["method"] == "raw"
    assert (found.tier, found.config["images"], found.config["queries"]) == ("quick", 8, 3)
    assert strong.values["accuracy"]["pgd100x20"]["count"] == 8
    assert all(sign.split()[0] in said for sign in found.values["signs"])


def test_fractions_and_precision_on_the_command_line(capsys, tmp_path):
    arguments = ("--eps", "8/255", "--precision", "bfloat16", "--lr", "0.002", "--batch-size", "300")
    status, *_ = run(capsys, "train", *SMALL, *arguments, "--method", "raw", "--out", tmp_path / "a")
    assert status == 0
    found = json.loads((tmp_path / "a" / "run.json").read_text())
    assert found["watched"]["eps"] == 8 / 255
    assert (found["recipe"]["precision"], found["recipe"]["lr"], found["recipe"]["batch_size"]) == (
        "bfloat16",
        0.002,
        300,
    )


def test_a_readers_own_images(capsys, tmp_path):
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for shade, name in enumerate(("dark", "light")):
            folder = tmp_path / "mine" / part / name
            folder.mkdir(parents=True)
            for i in range(20):
                pixels = random.integers(120 * shade, 120 * shade + 100, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    arguments = ("--data", tmp_path / "mine", "--image-size", "16", "--epochs", "2", "--threads", "1")
    status, out, _ = run(capsys, "train", *arguments, "--model", "resnet32", "--out", tmp_path / "run")
    assert status == 0
    status, out, _ = run(capsys, "evaluate", tmp_path / "run")
    assert status == 0
    assert "AALP on mine, last epoch, eps 8/255, step 2/255" in out


@pytest.mark.filterwarnings("default")
def test_a_bundled_network_on_images_of_other_classes_is_noted(capsys, tmp_path):
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(20):
                Image.new("L", (28, 28)).save(tmp_path / part / name / f"{number}.png")
    call = ("evaluate", "mnist/raw", "--data", tmp_path, "--images", "2", "--out", tmp_path / "out")
    status, *said = run(capsys, *call)
    assert status == 0
    assert "trained on the classes 0, 1, 2" in re.sub(r"\s+", " ", "".join(said))


def test_a_network_of_ones_own_or_of_a_library(capsys, tmp_path, monkeypatch):
    """By the name of a function in the working folder, and by a library's; grey digits in a colour network."""
    monkeypatch.chdir(tmp_path)
    layers = "torch.nn.Flatten(), torch.nn.Linear(784, 10)"
    (tmp_path / "mine.py").write_text(f"import torch\ndef build():\n    return torch.nn.Sequential({layers})\n")
    said = run(capsys, "train", *SMALL, "--model", "mine:build", "--out", "a")[1]
    _, *following = shlex.split(said.partition("next: ")[2])
    assert following == ["evaluate", "a", "--model", "mine:build"]
    status, said, _ = run(capsys, *following, "--images", "10")
    assert (status, "AALP on mnist-sample" in said) == (0, True)
    assert "say what makes it, --model module:function" in run(capsys, "evaluate", "a")[2]
    (tmp_path / "a" / "data.json").unlink()  # as `fit` leaves it
    assert "name it with --data" in run(capsys, *following)[2]
    config = {"name": "torchvision:squeezenet1_1", "in_channels": 1, "classes": 7, "mean": [0.1], "std": [0.3]}
    with pytest.raises(aalp.InputError, match="does not end in an nn"):
        aalp.models.build(config)
    model = aalp.models.build(config | {"name": "torchvision:shufflenet_v2_x0_5"}).eval()
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 7)
    assert model.config["classes"] == 7


@pytest.mark.parametrize(
    ("ball", "order", "eps"), [((), float("inf"), 0.3), (("--norm", "l2", "--eps", "2.5"), 2, 2.5)]
)
def test_attack_saves_images_that_other_tools_read(capsys, tmp_path, ball, order, eps):
    out = tmp_path / "ad [v]"
    status, said, _ = run(capsys, "attack", "mnist/raw", "--images", "12", "--attack", "pgd40", *ball, "--out", out)
    assert status == 0
    fooled, kept = map(int, re.search(r"of 12 images right .* (\d+) of them .* (\d+) still", said).groups())
    assert fooled > 6
    found = ImageFolder(out, lambda image: torch.from_numpy(np.array(image.convert("L"))) / 255)
    rows = [int(Path(path).stem) for path, _ in found.samples]
    clean = aalp.load("mnist-sample").test[:12][torch.tensor(rows)]
    x_adv, y = (torch.stack([torch.as_tensor(item[part]) for item in found]) for part in (0, 1))
    labels = torch.tensor([int(found.classes[label]) for label in y])
    assert torch.equal(labels, clean.labels)
    x_adv, x = x_adv[:, None], clean.images / 255
    assert torch.linalg.vector_norm((x_adv - x).flatten(1), ord=order, dim=1).max() <= eps + 1e-5
    before, after = (aalp.pretrained("mnist/raw")(images).argmax(1) for images in (x, x_adv))
    assert int(((before == labels) & (after != labels)).sum()) == kept
    assert Image.open(out / "sheet.png").size[0] > 1000


def test_ctrl_c_saves_and_the_command_it_names_goes_on(tmp_path):
    out = tmp_path / "run with a space"
    call = [
        sys.executable,
        "-m",
        "aalp_lib",
        "train",
        "--epochs",
        "3",
        "--method",
        "alp",
        "--threads",
        "1",
        "--out",
        out,
    ]
    pipe = subprocess.PIPE
    process = subprocess.Popen(call, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed_ctrl_c)
    while not (out / checkpoints.LAST).exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=180)
    assert process.returncode == 130
    assert re.search(r"stopped after step \d+ of \d+; saved in ", said)
    assert f"\n  aalp train --epochs 3 --method alp --threads 1 --out '{out}' --resume" in said
    assert "Traceback" not in said
    done = subprocess.run([*call, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0
    assert checkpoints.read(out / checkpoints.LAST).meta["history"]["epochs"][-1]["epoch"] == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "--data", "mnits", "--out", "{tmp}/a"), "unknown data set 'mnits'"),
        (("train", "--method", "alpp", "--out", "{tmp}/a"), "Did you mean 'alp'"),
        (("train", "--model", "lenet5", "--out", "{tmp}/a"), "Did you mean 'lenet'"),
        (("train", "--model", "torchvision:resnet8", "--out", "{tmp}/a"), "no classifier 'resnet8'; near are resnet18"),
        (("train", "--model", "nothing_there:build", "--out", "{tmp}/a"), "No module named 'nothing_there'"),
        (("train", "--model", "math:pi", "--out", "{tmp}/a"), "math has no function 'pi'"),
        (("train", "--model", "time:time", "--out", "{tmp}/a"), "time:time returns float, no nn.Module"),
        (
            ("train", "--model", "mym:needs", "--out", "{tmp}/a"),
            "mym:needs: called without arguments, it raised TypeErr",
        ),
        (("train", "--model", "mym:boom", "--out", "{tmp}/a"), "mym:boom: called without arguments, it raised KeyErr"),
        (("train", "--model", "mym:model", "--out", "{tmp}/a"), "mym:model is a network itself"),
        (
            ("train", "--model", "broken:f", "--out", "{tmp}/a"),
            "broken cannot be imported: it raised ZeroDivisionError",
        ),
        (("evaluate", "mnist/raw", "--model", "mym:boom"), "mnist/raw is a bundled network, which takes no --model"),
        (("train", "--seed", "9" * 23, "--out", "{tmp}/a"), "seed must be at most"),
        (("attack", "mnist/raw", "--seed", "-1", "--out", "{tmp}/a"), "seed must be a whole number of at least 0"),
        (("demo", "--seed", "9" * 23, "--out", "{tmp}/a"), "seed must be at most"),
        (("evaluate", "mnist/raw", "--batch-size", "9" * 23), "--batch-size must be at most"),
        (("train", "--threads", "100000", "--out", "{tmp}/a"), "--threads must be at most"),
        (("train", "--recipe", "quick", "--out", "{tmp}/a"), "known are paper, fast"),
        (("train", "--epochs", "0", "--out", "{tmp}/a"), "epochs must be a whole number of at least 1, got 0"),
        (("train", "--eps", "8", "--out", "{tmp}/a"), "eps must be at most 1"),
        (("train", "--eps", "-1", "--out", "{tmp}/a"), "eps must be above 0"),
        (("train", "--device", "warp", "--out", "{tmp}/a"), "device 'warp' cannot be used here"),
        (("train", "--seed", "-1", "--out", "{tmp}/a"), "seed must be a whole number"),
        (("train", "--data", "{tmp}", "--out", "{tmp}/a"), "train is missing"),
        (("train", "--data", "mnist", "--root", "{tmp}/no", "--out", "{tmp}/a"), "root must be a folder that exists"),
        (("train", "--threads", "0", "--out", "{tmp}/a"), "--threads must be"),
        (("train", "--epochs", "1", "--out", "{tmp}/file"), "the output folder {tmp}/file cannot be written"),
        (("evaluate", "{tmp}"), "there is no checkpoint {tmp}/last.safetensors"),
        (("evaluate", "mnist/alpp"), "Did you mean 'mnist/alp'? Or name a folder that aalp train wrote."),
        (("evaluate", "mnist/raw", "--out", "{tmp}/file/x"), "the output folder {tmp}/file/x cannot be written"),
        (("attack", "mnist/raw", "--out", "{tmp}"), "{tmp} is not empty"),
        (("attack", "mnist/raw", "--norm", "l2", "--out", "{tmp}/a"), "--norm l2 needs an --eps"),
        (("diagnose", "{tmp}"), "there is no checkpoint {tmp}/last.safetensors"),
        (("diagnose", "{tmp}", "--images", "0"), "--images must be a whole number of at least 1, got 0"),
        (("diagnose", "{tmp}", "--queries", "-1"), "--queries must be a whole number of at least 0, got -1"),
        (("diagnose", "{tmp}", "--queries", "0", "--strong"), "--queries must be a whole number of at least 1, got 0"),
        (("data", "{tmp}"), "train is missing"),
        (("demo", "--jobs", "0", "--out", "{tmp}/d"), "jobs at once must be"),
    ],
)
def test_bad_input_is_one_clear_sentence(capsys, tmp_path, monkeypatch, arguments, said):
    (tmp_path / "file").write_text("")
    (tmp_path / "broken.py").write_text("1 / 0")
    functions = "def needs(width): pass\ndef boom(): return {}['a']\n"
    (tmp_path / "mym.py").write_text(f"import torch\n{functions}model = torch.nn.Linear(2, 2)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mym", raising=False)
    status, _, err = run(capsys, *(a.format(tmp=tmp_path) for a in arguments))
    assert status == 2
    assert err.startswith("aalp: ")
    assert said.format(tmp=tmp_path) in err
    assert "Traceback" not in err
    assert not (tmp_path / "a" / checkpoints.LAST).exists()


def test_a_folder_that_holds_a_run_is_kept(capsys, tmp_path):
    out = tmp_path / "a"
    assert run(capsys, "train", *SMALL, "--method", "raw", "--out", out)[0] == 0
    before = (out / checkpoints.LAST).read_bytes()
    status, _, err = run(capsys, "train", *SMALL, "--method", "raw", "--out", out)
    assert status == 2
    assert f"{out} already holds a run" in err
    assert "--resume" in err
    status, _, err = run(capsys, "train", *SMALL, "--method", "adv", "--out", out, "--resume")
    assert status == 2
    assert "another method" in err
    assert (out / checkpoints.LAST).read_bytes() == before
    (out / "run.json").write_text('{"method')
    assert run(capsys, "evaluate", out)[0] == 2


def test_steps_that_cannot_reach_eps_are_noted(capsys, tmp_path):
    _, out, _ = run(capsys, "train", *SMALL, "--steps", "1", "--method", "adv", "--out", tmp_path / "a")
    assert out.count("note: 1 steps of 0.15 move at most 0.15, less than eps = 0.3") == 1


def test_a_dry_run_says_what_it_would_train_on(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("AALP_DATA", str(tmp_path / "cache"))
    dry = ("--dry-run", "--out", tmp_path / "out")
    _, said, _ = run(capsys, "reproduce", "svhn", "--recipe", "paper", *dry)
    assert "recipe paper, 30 epochs; svhn, all training and all test images" in said
    assert "the data of svhn is not there yet; the first run downloads it" in said
    (tmp_path / "cache").mkdir()
    for part in ("train", "test"):
        (tmp_path / "cache" / f"{part}_32x32.mat").touch()
    assert "downloads it" not in run(capsys, "reproduce", "svhn", *dry)[1]
    _, said, _ = run(capsys, "reproduce", "mnist-sample", "--quick", *dry)
    assert "recipe fast, 1 epoch; mnist-sample, all training and 100 test images" in said
    assert "downloads" not in said
    assert "16 or 32 epochs; mnist" in run(capsys, "reproduce", "reasons", *dry)[1]


@pytest.mark.parametrize(
    ("option", "said"), [("--root", "root must be a folder that exists"), ("--data", "{tmp}/no/train is missing")]
)
def test_a_grid_whose_data_folder_is_not_there_is_not_begun(capsys, tmp_path, option, said):
    for more in (("--dry-run",), ("--jobs", "1")):
        status, out, err = run(capsys, "reproduce", "svhn", option, tmp_path / "no", "--out", tmp_path / "out", *more)
        assert (status, out) == (2, "")
        assert err.startswith("aalp: " + said.format(tmp=tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_grid_goes_on_with_records_of_a_copy_of_its_images(capsys, tmp_path):
    (tmp_path / "cifar10").mkdir()
    shutil.copy(RESULTS / "cifar10" / "cifar10-jpeg-raw-seed0.json", tmp_path / "cifar10")
    for part in ("train", "test"):
        (tmp_path / "cifar10-jpeg" / part).mkdir(parents=True)
    call = ("reproduce", "cifar10", "--methods", "raw", "--dry-run", "--out", tmp_path)
    assert "1 of them done already" in run(capsys, *call, "--data", tmp_path / "cifar10-jpeg")[1]


def test_a_line_for_a_run_names_the_seed_and_the_variant_where_there_are_several(capsys, tmp_path):
    jobs = [tiny("raw", tmp_path, seed=seed) for seed in (0, 1)]
    display.run_all(jobs, 1)
    said = capsys.readouterr().out
    assert re.search(r"^1/2  RAW, seed (0|1): clean", said)
    assert {"RAW, seed 0", "RAW, seed 1"} == set(re.findall(r"RAW, seed \d", said))
    display.run_all(jobs[:1], 1)
    assert capsys.readouterr().out.startswith("1/1  RAW: clean")
    called = display.called([tiny("alp", tmp_path, variant=variant) for variant in ("", "long")])
    assert list(called.values()) == ["ALP", "ALP, long"]


@pytest.mark.parametrize("columns", [100, 120])
def test_tables_fit_a_terminal(capsys, monkeypatch, columns):
    """The repository's own records: no line wider than the terminal, nothing but devices cut off."""
    kept = archive.records(RESULTS)
    monkeypatch.setattr(archive, "records", lambda _: kept)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(display.console, "_width", columns)
    for number in (0, 1, 2, 3, 4):
        assert main(["results", str(RESULTS), *(["--table", str(number)] if number else [])]) == 0
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= columns
        assert "| --- |" not in said
        assert all("…" not in line or "Intel(R)" in line for line in said.splitlines())
        assert ("--form markdown has them" in said) == (number == 2)
        assert "ALP" in said.split()
    assert main(["results", str(RESULTS), "--table", "2", "--form", "markdown"]) == 0
    assert "| --- |" in capsys.readouterr().out


def test_a_command_is_shown_with_what_it_says_and_no_colours(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    chapter.shell("aalp reproduce mnist --methods alp --out here --dry-run", tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("$ aalp reproduce mnist --methods alp --out here --dry-run\n1 run into here/mnist")
    assert "\x1b" not in said
    with pytest.raises(aalp.InputError, match="unknown method 'nothing'"):
        chapter.shell("aalp reproduce mnist --methods nothing --dry-run", tmp_path)
    with pytest.raises(aalp.InputError, match="unknown command 'ls'"):
        chapter.shell("ls", tmp_path)
