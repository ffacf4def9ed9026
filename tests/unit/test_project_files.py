from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+?)(?:\s*;\s*(.+?))?\s*\\?")


def pins(file: Path) -> set[tuple[str, str]]:
    """Return the packages of a file of requirements with their versions."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if re.match(r"[A-Za-z0-9]", line)]
    matches = [PIN.fullmatch(line) for line in lines]
    assert all(matches), file
    return {(re.sub(r"[._-]+", "-", match[1]).lower(), match[2].rstrip(";")) for match in matches if match}


@pytest.mark.parametrize("name", ["cpu", "dev", "torch-gpu", "peers", "tensorrt"])
def test_every_requirement_has_a_hash(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    blocks = re.split(r"(?m)^(?=[a-z0-9])", text)[1:]
    assert blocks
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)


def test_hashed_versions_are_those_of_the_constraints() -> None:
    constraints = pins(ROOT / "constraints.txt")
    names = {name for name, _ in constraints}
    hashed = pins(ROOT / "requirements" / "cpu.txt") | pins(ROOT / "requirements" / "dev.txt")
    assert {(name, version) for name, version in hashed if name in names} <= constraints
    assert len(hashed & constraints) > 150


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def test_workflow_pins_actions_and_has_read_permissions(workflow: Path) -> None:
    content = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    assert content["permissions"] == {"contents": "read"}
    steps = [step for job in content["jobs"].values() for step in job["steps"]]
    actions = [step for step in steps if "uses" in step]
    assert actions
    for step in actions:
        assert re.fullmatch(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40}", step["uses"])
        if step["uses"].startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_troubleshooting_quotes_messages_of_the_source() -> None:
    rows = re.findall(r"(?m)^\| `([^`]+)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "shrinkserve").rglob("*.py"))
    assert len(rows) > 15
    assert [row for row in rows if row not in sources] == []
