from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shrinkserve.cli import main
from shrinkserve.config import load_recipe

SMALL = Path(__file__).parents[1] / "unit" / "arch" / "small.prototxt"
SOLVER = "optimizer='rmsprop_imagenet'\nlr=0.05\ndecay_method=cosine_decay\ndecay_steps=300\ndecay=1.0\n"


def test_describe_prints_published_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "shrinkcnn-a"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["total", "3,636,301", "383,677,672", "100.0", "%"] in lines
    assert ["stage4.cell6", "14x14x176", "84,920", "16,264,864", "4.2", "%"] in lines
    assert ["stage5", "7x7x360", "1,282,728", "62,096,328", "16.2", "%"] in lines


def test_describe_json_has_published_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "shrinkcnn-b", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["network"], data["input_size"], data["classes"]) == ("shrinkcnn-b", 224, 1001)
    assert data["parameters"]["total"] == 3_600_981 + 35_320
    assert (data["macs"]["total"], data["macs"]["depthwise"]) == (383_677_672, 44_329_320)
    assert sum(block["macs"] for block in data["blocks"]) == data["macs"]["total"]


def test_describe_applies_options(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["describe", "shrinkcnn-a", "--input-size", "33", "--width", "0.25", "--classes", "10", "--json"]
    assert main(argv) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["input_size"], data["classes"]) == (33, 10)
    assert data["parameters"]["total"] < 200_000
    assert {block["name"]: block["shape"] for block in data["blocks"]}["stage5.cell1"] == [88, 2, 2]


def test_describe_of_file_needs_no_torch() -> None:
    code = (
        "import sys; from shrinkserve.cli import main\n"
        f"assert main(['describe', {str(SMALL)!r}]) == 0\n"
        "assert not {'torch', 'matplotlib', 'onnx'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert "stage2.cell1" in found.stdout


@pytest.mark.parametrize("options", [[], ["--whole"], ["--cell", "head"]])
def test_describe_plot_writes_picture(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cell.svg"
    assert main(["describe", "shrinkcnn-a", "--plot", str(path), *options]) == 0
    assert path.read_bytes().startswith(b"<?xml")
    assert f"wrote {path}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["shrinkcnn-c"], "did you mean shrinkcnn-"),
        (["my.toml"], "my.toml: unknown network: expected shrinkcnn-a, shrinkcnn-b, shrinkcnn-tiny or"),
        (["absent.prototxt"], "absent.prototxt: "),
        (["shrinkcnn-a", "--input-size", "31"], "at least 32, found 31"),
        (["shrinkcnn-a", "--input-size", "99999999"], "images: size: "),
        (["shrinkcnn-a", "--width", "nan"], "at most 32, found nan"),
        (["shrinkcnn-a", "--width", "inf"], "at most 32, found inf"),
        (["shrinkcnn-a", "--classes", "0"], "head.logits: units: "),
        (["shrinkcnn-a", "--whole"], "--plot FILE"),
        (["shrinkcnn-a", "--plot", "cell.gif"], ".png"),
        (["shrinkcnn-a", "--plot", "/proc/cell.svg"], "/proc/cell.svg: "),
        (["shrinkcnn-a", "--plot", "cell.svg", "--whole", "--cell", "stem"], "one of them"),
    ],
)
def test_describe_reports_mistake_in_one_line(
    argv: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["describe", *argv]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out
    assert not list(tmp_path.iterdir())


def test_recipe_import_prints_valid_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.solver").write_text(SOLVER)
    assert main(["recipe", "import", "--proto", str(SMALL), "--solver", str(tmp_path / "my.solver")]) == 0
    (tmp_path / "my.toml").write_text(capsys.readouterr().out)
    recipe = load_recipe(tmp_path / "my.toml")
    assert (recipe.name, recipe.model.network, recipe.optimizer.lr) == ("small-relu", str(SMALL), 0.05)
    assert (recipe.optimizer.reference_batch, recipe.schedule.epochs) == (128, 300)


def test_recipe_import_names_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.solver").write_text(SOLVER.replace("0.05", "fast"))
    assert main(["recipe", "import", "--proto", str(SMALL), "--solver", str(tmp_path / "my.solver")]) == 2
    printed = capsys.readouterr()
    assert "my.solver, line 2: lr: " in printed.err
    assert not printed.out
