from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from shrinkserve import __version__, cli
from shrinkserve.toml import parse_toml

LIGHT = 250
"""Most modules that `--help` may import: it imports 177, and a heavy library adds hundreds."""


def test_help_imports_few_modules() -> None:
    script = "import sys; from shrinkserve.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = done.stderr.split()
    assert len(loaded) < LIGHT
    heavy = {"torch", "onnxruntime", "nvidia.dali", "tritonclient", "networkx", "numpy", "pydantic", "PIL"}
    assert heavy.isdisjoint(loaded)
    for command in ("train", "export", "serve", "predict", "bench", "quickstart", "describe", "data"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["data", "digits"], "Missing argument 'DIR'; see `shrinkserve data digits --help`"),
        (["serve", "--tls", "a"], "Option '--tls' requires 2 arguments; see `shrinkserve serve --help`"),
        (["bench", "plan", "--rate"], "Option '--rate' requires an argument; see `shrinkserve bench plan --help`"),
        (["describe", "a", "--input-size", "big"], "unable to parse string as an integer, found 'big';"),
        (["export", "run", "--weights", "best"], "Invalid value for '--weights': 'best' is not one of 'ema', 'raw';"),
        (["eval", "absent", "--data", "absent", "--confusion", "a.txt"], "a.txt: not the name of a picture"),
        (["train", "run", "digits", "--data", "absent", "--logger", "none"], "'none' is not one of 'wandb', 'mlflow'"),
        (["serve", "--http-port", "70000"], "less than or equal to 65535, found '70000';"),
    ],
)
def test_invalid_command_line_gives_one_line_and_exit_code_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("group", ["data", "recipe", "repo"])
def test_group_without_command_prints_its_commands(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([group]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"Usage: shrinkserve {group} [OPTIONS] COMMAND")
    assert error.count("\n") > 8


@pytest.mark.parametrize("group", [[], ["data"], ["recipe"], ["repo"], ["bench"]])
def test_help_of_commands_is_not_cut(group: list[str]) -> None:
    command = [sys.executable, "-m", "shrinkserve", *group, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"})
    listed = done.stdout.partition("Commands:\n")[2].splitlines()
    assert listed
    assert [line for line in listed if "..." in line] == []


def test_full_disk_gives_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    script = "import resource, sys; from shrinkserve.cli import main\n"
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    script += f"sys.exit(main(['data', 'digits', {str(tmp_path / 'digits')!r}]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "File too large" in done.stderr
    assert not list(tmp_path.iterdir())


def test_lack_of_memory_gives_one_line() -> None:
    script = "import resource, sys, shrinkserve.cli as cli, psutil\n"
    script += "cli.app.command()(lambda: bytearray(1 << 40) and None)\n"
    script += "resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (1 << 26),) * 2)\n"
    script += "sys.exit(cli.main(['<lambda>']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "out of memory" in done.stderr


def test_missing_library_gives_one_line_with_its_extra() -> None:
    script = "import sys; sys.modules['torch'] = None; from shrinkserve.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "eval", "run", "--data", "data"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: torch ")
    assert "shrinkserve[cpu]" in done.stderr


def test_every_optional_library_has_an_extra() -> None:
    extras = parse_toml(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())["project"]
    for extra in ("train", "export", "serve", "bench", "dali", "openvino"):
        for requirement in extras["optional-dependencies"][extra]:
            distribution = re.split(r"[^\w-]", requirement)[0]
            brought = {file.parts[0].removesuffix(".py") for file in metadata.files(distribution) or ()}
            assert brought & set(cli.EXTRAS), distribution


def test_error_has_traceback_only_with_debug() -> None:
    command = [sys.executable, "-m", "shrinkserve"]
    rest = ["describe", "no-such.prototxt"]
    plain = subprocess.run([*command, *rest], capture_output=True, text=True, check=False)
    debug = subprocess.run([*command, "--debug", *rest], capture_output=True, text=True, check=False)
    assert (plain.returncode, plain.stderr.count("\n")) == (2, 1)
    assert "no-such.prototxt" in plain.stderr
    assert "Traceback" in debug.stderr


def test_version_option_prints_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"shrinkserve {__version__}"
    assert f"numpy {metadata.version('numpy')}" in others


def run_with_command(body: str) -> subprocess.Popen[str]:
    """Start the command line with a further command `extra`, whose body is one line."""
    script = f"import os, signal, sys; from shrinkserve.cli import app, main\n@app.command()\ndef extra(): {body}\n"
    script += "sys.exit(main(['extra']))"
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_output_that_is_not_read_to_its_end_is_no_error() -> None:
    with run_with_command("print('line\\n' * 1_000_000)") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_ctrl_c_gives_one_line_and_exit_code_130() -> None:
    with run_with_command("os.kill(os.getpid(), signal.SIGINT)") as process:
        _, error = process.communicate()
    assert (process.returncode, error) == (130, "error: interrupted\n")
