"""Batches on a Ray cluster of several nodes, all of them on this machine: what dies costs nothing but time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import faulty_engine
from contract.source_tree import SOURCE
from vlm3d_gs.batch.start import Where, run_list
from vlm3d_gs.core.errors import MissingDependencyError

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed")

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
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MIB})
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


@needs_ray
@pytest.mark.slow
def test_a_killed_node_and_crashing_prompts_lose_and_double_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = os.pathsep.join([str(SOURCE.parent), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(out), faulty_engine.NAME],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
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
