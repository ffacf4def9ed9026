"""`train/launch/`: training on several nodes, simulated on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from shrinkserve.artifact import read_card
from shrinkserve.cli import main
from shrinkserve.errors import ConfigError
from shrinkserve.training.processes.distributed import OWN_STORE, join
from shrinkserve.training.run_folder import checkpoints

LAUNCH = Path(__file__).parents[2] / "train" / "launch"


def environment(**names: object) -> dict[str, str]:
    """Return the environment with this interpreter's torchrun on the path, and a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        names["PORT"] = probe.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, **{name: str(value) for name, value in names.items()}}


def test_torchrun_sh_trains_on_two_nodes(tmp_path: Path, digits: Path) -> None:
    names = environment(HEAD="localhost", NODES=2, GPUS=1)
    command = ["bash", str(LAUNCH / "torchrun.sh"), "smoke", "--data", str(digits), "--out", str(tmp_path / "run")]
    nodes = [subprocess.Popen(command, env=names, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    warnings = 0
    for node in nodes:
        errors = node.communicate(timeout=240)[1]
        assert node.returncode == 0, errors
        warnings += errors.count("opens ports without authentication")
    assert warnings == 1
    assert read_card(tmp_path / "run").metrics["images"] == 364
    (entry,) = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert entry["processes"] == 2


@pytest.mark.parametrize("name", ["torchrun.sh", "slurm.sbatch", "kubernetes.yaml"])
def test_launcher_sets_its_own_store(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OWN_STORE in (LAUNCH / name).read_text()
    for key, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "TORCHELASTIC_MAX_RESTARTS": 3}.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(ConfigError, match=f"export {OWN_STORE}=1 before torchrun"), join():
        pass


@pytest.mark.parametrize("name", ["torchrun.sh", "slurm.sbatch", "kubernetes.yaml"])
def test_launcher_names_its_open_ports(name: str) -> None:
    assert "authentication" in (LAUNCH / name).read_text()


def test_pytorchjob_network_policy_admits_only_the_job() -> None:
    job, policy = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    pods = {"matchLabels": {"training.kubeflow.org/job-name": job["metadata"]["name"]}}
    assert policy["spec"]["podSelector"] == pods
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": pods}]}]


def test_pytorchjob_fits_pod_security_restricted() -> None:
    job = next(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {"cpu", "memory", "nvidia.com/gpu"} <= container["resources"]["limits"].keys()
    assert all({"persistentVolumeClaim", "emptyDir"} & volume.keys() for volume in pod["volumes"])


SHIMS = {
    "srun": 'shift\necho "$SRUN_CPUS_PER_TASK" >"$CPUS"\nexec "$@"',
    "scontrol": 'case $1 in show) echo localhost ;; *) echo "$@" >"$REQUEUED" ;; esac',
}
"""Slurm's commands as a job sees them on one node: the options of srun are those of its first word."""


def test_slurm_requeues_a_job_that_ran_out_of_time(tmp_path: Path, digits: Path) -> None:
    for name, body in SHIMS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = {
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NNODES": 1,
        "SLURM_GPUS_ON_NODE": 2,
        "SLURM_JOB_ID": 7,
        "SLURM_CPUS_PER_TASK": 3,
    }
    names = environment(**job, REQUEUED=tmp_path / "requeued", CPUS=tmp_path / "cpus")
    names["PATH"] = f"{tmp_path}{os.pathsep}{names['PATH']}"
    out = tmp_path / "run"
    words = ["smoke", "--data", str(digits), "--out", str(out)]
    words += ["--set", "schedule.epochs=500", "--set", "train.checkpoint_steps=1"]
    command = ["bash", str(LAUNCH / "slurm.sbatch"), *words]
    process = subprocess.Popen(command, env=names, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not checkpoints.listed(out / checkpoints.FOLDER):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert "SIGTERM: stopped after step" in output
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert (tmp_path / "cpus").read_text() == "3\n"  # srun does not inherit --cpus-per-task
    asked = [line for line in Path(command[1]).read_text().splitlines() if line.startswith("#SBATCH --signal")]
    assert asked == ["#SBATCH --signal=B:TERM@120"]  # B: the shell; else only srun's steps would hear of it


def test_pytorchjob_runs_a_valid_command(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = pytest.importorskip("kubernetes.client", reason="needs the Kubernetes client")
    job = next(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    api = client.ApiClient()
    built = api._ApiClient__deserialize(template, client.V1PodTemplateSpec)
    assert api.sanitize_for_serialization(built) == template  # no unknown field
    (container,) = template["spec"]["containers"]
    assert container["name"] == "pytorch"
    mounts = [mount["name"] for mount in container["volumeMounts"]]
    assert mounts == [volume["name"] for volume in template["spec"]["volumes"]]
    launcher, words = container["command"][:3], [*container["command"][3:], *container["args"]]
    assert launcher == ["torchrun", "-m", "shrinkserve"]
    assert main([str(digits) if word == "/data/ImagenetTF" else word for word in words] + ["--plan"]) == 0
    assert "1,433 train" in capsys.readouterr().out
