"""What deploy/ holds: fields that exist, commands that are ours, images that the Dockerfile makes.

Kubernetes' own objects, pods among them, are compared with its types in lightkube-models. Nothing on the package index
holds KubeRay's schema, and SkyPilot's comes with the whole program and what that needs, so the fields of theirs that we
use stand here, as their documentation has them. Both files were once checked against the schemas themselves
(docs/log/batch.md).
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from vlm3d_gs.cli import app

KINDS = {
    "PersistentVolumeClaim": "core_v1",
    "Service": "core_v1",
    "Deployment": "apps_v1",
}
POD = {"metadata": dict, "spec": "pod"}
GROUP = {"rayStartParams": dict, "template": POD}
RAY_JOB = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "entrypoint": str,
        "backoffLimit": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "enableInTreeAutoscaling": bool,
            "autoscalerOptions": {"idleTimeoutSeconds": int},
            "headGroupSpec": GROUP,
            "workerGroupSpecs": [
                GROUP
                | {"groupName": str}
                | dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), int)
            ],
        },
    },
}
SKYPILOT = {
    **dict.fromkeys(("name", "workdir", "setup", "run"), str),
    "num_nodes": int,
    "resources": {
        "accelerators": dict,
        "use_spot": bool,
        "disk_size": int,
        "job_recovery": {"strategy": str, "max_restarts_on_errors": int},
    },
    "envs": dict,
}


@pytest.fixture(scope="module")
def deploy(repo_root: Path) -> Path:
    return repo_root / "deploy"


@pytest.fixture(scope="module")
def targets(deploy: Path) -> set[str]:
    text = (deploy / "Dockerfile").read_text()
    return set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.M))


def check(value: Any, shape: Any, where: str = "") -> None:
    """Compare a value with one of the tables above."""
    if shape == "pod":
        check_typed(value, import_module("lightkube.models.core_v1").PodSpec, where)
    elif isinstance(shape, dict):
        assert isinstance(value, dict), where
        assert set(value) <= set(shape), f"{where}: {set(value) - set(shape)}"
        for name, each in value.items():
            check(each, shape[name], f"{where}.{name}")
    elif isinstance(shape, list):
        for index, each in enumerate(value):
            check(each, shape[0], f"{where}[{index}]")
    else:
        assert type(value) is shape, f"{where}: {value!r} is no {shape.__name__}"


def check_typed(value: Any, kind: Any, where: str) -> None:
    """Compare a value with a type of lightkube-models, which are structures of msgspec."""
    import msgspec

    known = msgspec.to_builtins(msgspec.convert(value, kind))
    unknown = list(left_out(value, known, where))
    assert not unknown, f"there is no {', '.join(unknown)}"


def left_out(value: Any, known: Any, where: str) -> Iterator[str]:
    """Yield the names in a value that did not survive."""
    if isinstance(value, dict):
        for name, each in value.items():
            if isinstance(known, dict) and name in known:
                yield from left_out(each, known[name], f"{where}.{name}")
            else:
                yield f"{where}.{name}"
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from left_out(each, known[index], f"{where}[{index}]")


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def found(data: Any, name: str) -> Iterator[Any]:
    """Yield all values under a name, at any depth."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key == name:
                yield value
            yield from found(value, name)
    elif isinstance(data, list):
        for value in data:
            yield from found(value, name)


def pods(data: Any) -> Iterator[dict[str, Any]]:
    yield from (each["spec"] for each in found(data, "template"))


def parse(words: list[str]) -> None:
    """Have our own command line read a command, without running it."""
    command = typer.main.get_command(app)
    assert command.commands[words[0]].make_context(words[0], words[1:])  # type: ignore[attr-defined]


def batch_of(script: str) -> list[str]:
    line = re.search(r"vlm3d-gs (batch .*?)(?:\|\||$)", script.replace("\n", " "))
    assert line is not None
    text = line[1].replace("$SKYPILOT_NUM_NODES", "4")
    return shlex.split(text)


def test_kuberay_job_has_fields_that_exist(deploy: Path) -> None:
    pytest.importorskip("lightkube.models", reason="lightkube is not installed")
    (job,) = documents(deploy / "kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    check(job, RAY_JOB)

    mount = {"name": "a", "mountPath": "/a", "readonly": True}
    with pytest.raises(AssertionError, match=r"volumeMounts\[0\]\.readonly"):
        check({"containers": [{"name": "a", "volumeMounts": [mount]}]}, "pod")


def test_service_has_fields_that_exist(deploy: Path) -> None:
    pytest.importorskip("lightkube.models", reason="lightkube is not installed")
    objects = documents(deploy / "kubernetes-serve.yaml")
    assert {each["kind"] for each in objects} == set(KINDS)
    for each in objects:
        module = import_module(f"lightkube.models.{KINDS[each['kind']]}")
        check_typed(each, getattr(module, each["kind"]), each["kind"])


def test_skypilot_task_has_fields_that_exist(deploy: Path) -> None:
    (task,) = documents(deploy / "skypilot.yaml")
    check(task, SKYPILOT)
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_commands_in_the_files_are_ours(deploy: Path) -> None:
    (job,) = documents(deploy / "kuberay.yaml")
    (task,) = documents(deploy / "skypilot.yaml")
    entry = shlex.split(job["spec"]["entrypoint"])
    assert entry[:2] == ["bash", "-c"]
    for script in (entry[2], task["run"]):
        parse(batch_of(script))

    text = (deploy / "Dockerfile").read_text()
    for command in re.findall(r'^CMD \["serve", (.*)\]$', text, re.M):
        parse(["serve", *re.findall(r'"([^"]*)"', command)])
    with pytest.raises(Exception, match="no-such-option"):
        parse(["batch", "list", "--no-such-option"])


@pytest.mark.parametrize("name", ["kuberay.yaml", "kubernetes-serve.yaml"])
def test_pods_use_our_images_and_volumes_that_are_there(
    deploy: Path, targets: set[str], name: str
) -> None:
    checked = 0
    for pod in pods(documents(deploy / name)):
        volumes = {each["name"] for each in pod["volumes"]}
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert container["image"].partition("vlm3d-gs:")[2] in targets
            assert {each["name"] for each in container["volumeMounts"]} <= volumes
            checked += 1
    assert checked >= 1


def test_ray_is_the_version_that_the_image_has(deploy: Path, repo_root: Path) -> None:
    (job,) = documents(deploy / "kuberay.yaml")
    pinned = re.search(r"^ray==(\S+)$", (repo_root / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]


def test_images_are_not_root_and_pinned(deploy: Path) -> None:
    text = (deploy / "Dockerfile").read_text()
    stages = dict(re.findall(r"^FROM (?:\S+) AS (\S+)$(.*?)(?=^FROM |\Z)", text, re.M | re.S))
    parents = {name: parent for parent, name in re.findall(r"^FROM (\S+) AS (\S+)$", text, re.M)}
    for target in ("cpu", "cuda", "cpu-serve", "cuda-serve"):
        own = target if "USER" in stages[target] else parents[target]
        user = re.findall(r"^USER (\d+):\d+$", stages[own], re.M)
        assert user == ["1000"]
        assert "HEALTHCHECK" in stages[target] or not target.endswith("serve")

    installs = [line for line in text.splitlines() if "pip install" in line]
    assert len(installs) >= 4
    assert all("-c constraints.txt" in line for line in installs)
    assert 'VOLUME ["/weights"' in text


def test_the_build_context_holds_what_the_images_copy(deploy: Path, repo_root: Path) -> None:
    ignored = (repo_root / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    sent = {line[1:] for line in ignored if line.startswith("!")}
    text = (deploy / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M):
        for name in line.split():
            assert name in sent
            assert (repo_root / name).exists()
