"""Batches on a Ray cluster of several nodes, all of them on this machine: what dies costs nothing but time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

import faulty_engine
from contract.source_tree import SOURCE
from vlm3d_gs.batch.start import Where, run_list
from vlm3d_gs.batch.store import Store
from vlm3d_gs.core.errors import MissingDependencyError

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed")

PATIENCE = {"RAY_raylet_start_wait_time_s": "120"}
"""On a busy machine raylets are slow to start."""

KILLS = """
import json, sys, threading, time, collections
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from vlm3d_gs.batch.cluster import RayDriver
from vlm3d_gs.batch.driver import Job
from vlm3d_gs.batch.items import Shared
from vlm3d_gs.batch.prompts import collect
from vlm3d_gs.batch.run import run_batch

out, engine = Path(sys.argv[1]), sys.argv[2]
MIB = 80 * 2**20
head = {"num_cpus": 0, "object_store_memory": MIB, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
nodes = [cluster.add_node(num_cpus=1, object_store_memory=MIB) for _ in range(2)]
texts = ["nap 1", "nap 2", "nap 3", "segfault always", "segfault-once 1", "unknown 1", "nap 4", "nap 5", "good 1"]
rows = enumerate(({"prompt": text, "id": text.replace(" ", "-")} for text in texts), 1)
prompts = collect(rows, Shared(), "list")
begun = out / "begun.txt"

def kill_a_node():
    while not begun.exists() or len(begun.read_text().split()) < 2:
        time.sleep(0.05)
    cluster.remove_node(nodes[0], allow_graceful=False)

out.mkdir(parents=True)
threading.Thread(target=kill_a_node, daemon=True).start()
result = run_batch(prompts, Job(Shared(), out, engine, timeout_s=60.0),
                   RayDriver(cluster.address, workers=2), quiet=True)
print(json.dumps([result.done, result.failed, result.left]))
ray.shutdown()
cluster.shutdown()
"""

CLUSTER = """
import os, sys, time
from ray.cluster_utils import Cluster

MIB = 80 * 2**20
head = {"num_cpus": 0, "object_store_memory": MIB, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
for folder in sys.argv[1:]:
    cluster.add_node(num_cpus=1, object_store_memory=MIB, env_vars={"TMPDIR": folder})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
DRIVER = """
import sys
import faulty_engine
from vlm3d_gs.batch import start
from vlm3d_gs.batch.cluster import RayDriver
from vlm3d_gs.batch.items import Shared
from vlm3d_gs.batch.prompts import collect
from vlm3d_gs.batch.start import Where, run_list

url, address = sys.argv[1:]
start._driver = lambda where, engine: RayDriver(address, workers=2)
rows = enumerate(({"prompt": f"large {n}", "id": f"large-{n}"} for n in range(8)), 1)
result = run_list(collect(rows, Shared(), "list"), Shared(), Where(url), engine=faulty_engine.NAME, quiet=True)
print([result.done, result.failed, result.left])
"""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Provide a file system that an asset does not fit into."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@contextmanager
def cluster(folders: Sequence[Path], env: Mapping[str, str]) -> Iterator[str]:
    """Start a cluster with a node for each temporary folder; provide its address."""
    command = [sys.executable, "-c", CLUSTER, *map(str, folders)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            addresses = (line.strip() for line in process.stdout)
            yield next(each for each in addresses if re.fullmatch(r"[\d.]+:\d+", each))
        finally:
            process.stdin.close()


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_a_killed_driver_and_a_node_with_a_full_disk_lose_and_double_nothing(
    tmp_path: Path,
) -> None:
    path = os.pathsep.join([str(SOURCE.parent), str(Path(__file__).parents[1])])
    notes, roomy = tmp_path / "notes", tmp_path / "roomy"
    notes.mkdir()
    roomy.mkdir()
    # A store of your own may take the folder's place.
    url = os.environ.get("STORE_URL", f"shared://{tmp_path}/store")
    env = {**os.environ, **PATIENCE, "PYTHONPATH": path, "FAULTY_ENGINE_OUT": str(notes)}
    store = Store(url)

    with small_disk(tmp_path / "small") as small, cluster([small, roomy], env) as address:
        command = [sys.executable, "-c", DRIVER, url, address]
        with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as first:
            while sum(name.endswith("asset.json") for name in store.names()) < 2:
                assert first.poll() is None, "it ended before it could be killed"
                time.sleep(0.2)
            first.kill()
        before = sidecars(store)
        again = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=400, check=False
        )
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.splitlines()[-1] == "[8, 0, 0]"

    journal = store.read("manifest.jsonl")
    assert journal is not None
    rows = [json.loads(line) for line in journal.decode().splitlines()]
    assert [row["id"] for row in rows] == [f"large-{n}" for n in range(8)]
    after = sidecars(store)
    assert len(after) == 8
    assert before.items() <= after.items(), "what was there is not made again"
    for row in rows:
        data = store.read(f"{row['folder']}/dry.txt")
        assert data is not None
        assert hashlib.sha256(data).hexdigest() == row["files"]["dry.txt"]
        content = f"{row['prompt']}\n{row['content']}\n"
        assert data.decode() == f"{content}{hashlib.sha256(content.encode()).hexdigest()}\n"
    begun = (notes / faulty_engine.BEGUN).read_text().split()
    for name in before:
        assert begun.count(name.split("/")[2]) <= 2, "once, and perhaps once where it did not fit"


def sidecars(store: Store) -> dict[str, bytes | None]:
    return {name: store.read(name) for name in store.names() if name.endswith("asset.json")}


@needs_ray
@pytest.mark.slow
def test_a_killed_node_and_crashing_prompts_lose_and_double_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = os.pathsep.join([str(SOURCE.parent), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(out), faulty_engine.NAME],
        capture_output=True,
        text=True,
        env={**os.environ, **PATIENCE, "PYTHONPATH": path},
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [7, 2, 0]

    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    status = {row["id"]: row["status"] for row in rows}
    assert len(rows) == len(status) == 9
    failed = {id for id, each in status.items() if each == "failed"}
    assert failed == {"segfault-always", "unknown-1"}
    begun = (out / faulty_engine.BEGUN).read_text().split()
    assert begun.count("good-1") == 1
    assert begun.count("segfault-always") == 2, "tried once more, then given up"
    for row in rows:
        if row["status"] == "done":
            assert (out / row["folder"] / "asset.json").is_file()


def test_without_ray_the_cure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm3d_gs.batch.start.find_spec", lambda name: None)
    where = Where(tmp_path / "out", ray="local")
    with pytest.raises(MissingDependencyError, match=r"vlm3d-gs\[ray\]"):
        run_list(None, None, where)  # type: ignore[arg-type]
