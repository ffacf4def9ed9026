"""Change a repository in a lower layer of a real overlay file system, as in a container's image."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shrinkserve.artifact import Card
from shrinkserve.serving.repository.version import write_version
from shrinkserve.serving.repository.writer import Repository

MakeModel = Callable[..., tuple[Path, Card]]
MOUNT = "mount -t overlay overlay -o redirect_dir={redirect},lowerdir=lower,upperdir=upper,workdir=work merged"
SCRIPT = """
import json, os, sys
from pathlib import Path
import shrinkserve
from shrinkserve.serving.repository.verify import problems
from shrinkserve.serving.repository.writer import Repository

root = Path("merged/models")
try:
    os.rename(root / "tiny_classifier", root / "renamed")
    os.rename(root / "renamed", root / "tiny_classifier")
except OSError as exc:
    refused = exc.strerror
else:
    refused = ""
found = [shrinkserve.rollback("tiny", root)]
shrinkserve.publish("exported", root, name="tiny", scratch=False)
repository = Repository(root)
repository.remove("tiny", [1])
found += [repository.active("tiny"), repository.versions("tiny"), list(problems(repository, "tiny_classifier"))]
print(json.dumps([refused, found, sorted(os.listdir("merged"))]))
"""


@pytest.mark.parametrize("redirect", ["off", "on"])
def test_repository_in_a_lower_layer_can_be_changed(tmp_path: Path, make_model: MakeModel, redirect: str) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    repository = Repository(tmp_path / "lower" / "models")
    for seed in (0, 1):
        repository.add("tiny_classifier", *make_model(seed))
    write_version(tmp_path / "exported", *make_model(2))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = f"{MOUNT.format(redirect=redirect)} || exit 77; {sys.executable} script.py"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip(f"overlay file systems cannot be mounted here: {done.stderr.strip()[:100]}")
    assert done.returncode == 0, done.stderr
    refused, found, left = json.loads(done.stdout)
    assert bool(refused) == (redirect == "off"), "this is the case that renames fail"
    assert found == [1, 3, [2, 3], []]
    assert left == ["models"]
