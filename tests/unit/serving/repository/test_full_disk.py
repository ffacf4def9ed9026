"""Undo a change on a real file system that has become full."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shrinkserve.artifact import Card
from shrinkserve.serving.repository.version import write_version

MakeModel = Callable[..., tuple[Path, Card]]
SCRIPT = """
import json, os
from pathlib import Path
from shrinkserve.artifact import read_card
from shrinkserve.errors import RequestError, ShrinkServeError
from shrinkserve.serving.repository.verify import problems
from shrinkserve.serving.repository.writer import Repository

repository = Repository(Path("disk/models"))
first, second = (Path(name) for name in ("first", "second"))
repository.add("tiny_classifier", first / "model.onnx", read_card(first))
before = repository.fingerprint("tiny_classifier")

def fill():
    with open("disk/filler", "ab", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError as exc:
            errors.append(exc.strerror)

def refuse(number):
    assert repository.active("tiny") == number == 2
    fill()
    raise RequestError("the server refuses")

errors = []
for confirm in (refuse, lambda number: None):
    try:
        repository.add("tiny_classifier", second / "model.onnx", read_card(second), confirm=confirm)
    except ShrinkServeError as exc:
        errors.append(str(exc))
    fill()
same = repository.fingerprint("tiny_classifier") == before
found = list(problems(repository, "tiny_classifier"))
os.remove("disk/filler")
repository.add("tiny_classifier", second / "model.onnx", read_card(second))
print(json.dumps([errors, same, found, repository.versions("tiny"), sorted(os.listdir("disk"))]))
"""


def test_change_on_a_full_disk_is_undone(tmp_path: Path, make_model: MakeModel) -> None:
    for seed, name in enumerate(("first", "second")):
        write_version(tmp_path / name, *make_model(seed))
    (tmp_path / "disk").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    command = f"mount -t tmpfs -o size=256k tmpfs disk || exit 77; {sys.executable} script.py"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()[:100]}")
    assert done.returncode == 0, done.stderr
    (full, refused, _, unwritable, _), same, found, versions, left = json.loads(done.stdout)
    assert full == "No space left on device"
    assert refused == "the server refuses"
    assert "cannot be written (No space left on device)" in unwritable
    assert (same, found) == (True, [])
    assert versions == [1, 2]
    assert left == ["models"]
