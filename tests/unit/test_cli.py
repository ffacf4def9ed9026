from __future__ import annotations

import subprocess
import sys

import pytest

from shrinkserve import __version__, cli

HEAVY = {"torch", "onnx", "onnxruntime", "tensorrt", "nvidia.dali", "tritonclient", "sklearn", "matplotlib", "networkx",
         "numpy", "pydantic", "PIL", "rich.progress"}  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    script = "import sys; from shrinkserve.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(done.stderr.split())
    for command in ("train", "export", "serve", "predict", "bench", "quickstart", "describe", "data"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["data", "digits"], "Missing argument"),
    ],
)
def test_a_misspelt_command_line_is_one_line_and_exit_code_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1


def test_a_user_error_has_a_traceback_only_on_request() -> None:
    command = [sys.executable, "-m", "shrinkserve"]
    rest = ["export", "no-such-run"]
    plain = subprocess.run([*command, *rest], capture_output=True, text=True, check=False)
    debug = subprocess.run([*command, "--debug", *rest], capture_output=True, text=True, check=False)
    assert (plain.returncode, plain.stderr.count("\n")) == (2, 1)
    assert "no-such-run" in plain.stderr
    assert "Traceback" in debug.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"shrinkserve {__version__}\n"
