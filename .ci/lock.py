"""Write requirements/*.txt: the versions of constraints.txt with the hashes of all their files.

Run it after a change of constraints.txt or of pyproject.toml's dependencies; it needs uv (`pip install uv`).
pip installs the files with `--require-hashes --no-deps`, so every package must be listed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
HEAD = "# Written by .ci/lock.py; install with: pip install --require-hashes --no-deps -r\n"
OLDEST = "3.10"
CUDA = re.compile(r"torch|triton|cuda-.*|nvidia-(?!ml-py).*")
"""Packages that only torch's build for GPUs needs."""


def compile_hashes(*options: str) -> dict[str, str]:
    """Return requirement lines with hashes, by requirement, for all platforms and Python versions."""
    command = ["uv", "pip", "compile", "--universal", "--python-version", OLDEST, "--no-annotate"]
    command += ["--no-header", "--generate-hashes", "--quiet", *options]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    blocks = re.split(r"(?m)^(?=[a-z0-9])", done.stdout)
    return {block.split(" \\")[0]: block for block in blocks if block.strip()}


def name_of(requirement: str) -> str:
    """Return the package of a requirement."""
    return requirement.partition("==")[0]


def write(name: str, blocks: dict[str, str]) -> None:
    """Write one file of requirements."""
    (FOLDER / name).write_text(HEAD + "".join(blocks.values()), encoding="utf-8")


def main() -> None:
    """Write all files."""
    sources = ("pyproject.toml", "requirements/build.in", "--constraint", "constraints.txt")
    smaller = {name_of(key) for key in compile_hashes(*sources, "--extra", "cpu")}
    extras = ("cpu", "dali", "dev", "openvino", "tensorflow")
    found = compile_hashes(*sources, *(f"--extra={extra}" for extra in extras))
    files: dict[str, dict[str, str]] = {"torch-gpu.txt": {}, "cpu.txt": {}, "dev.txt": {}}
    for key, block in found.items():
        if "sys_platform == 'win32'" in key:
            continue
        kind = "dev" if name_of(key) not in smaller else "torch-gpu" if CUDA.fullmatch(name_of(key)) else "cpu"
        files[f"{kind}.txt"][key] = block
    for name, blocks in files.items():
        write(name, blocks)
    for source in ("peers", "tensorrt"):
        write(f"{source}.txt", compile_hashes(f"requirements/{source}.in", "--no-deps"))


if __name__ == "__main__":
    sys.exit(main())
