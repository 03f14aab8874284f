"""Load on a service over loopback: many clients that each ask, follow the events and fetch the file.

python benchmarks/serve_load.py --clients 200 --prompts 5

Starts `vlm3d-gs serve --dry-run`, so what is measured is the service and not the models. Counts jobs that were lost,
made twice or wrong, requests that failed, how long a client waits, and the memory of the service on the way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx2

TOKEN = "a-token-of-the-benchmark"
MOST_CONNECTIONS = 200


async def client(
    http: httpx2.AsyncClient, number: int, prompts: int, waits: list[float], found: Counter[str]
) -> None:
    """Ask for prompts in turn, and check each file."""
    for index in range(prompts):
        began = time.perf_counter()
        prompt = f"prompt {index} of client {number}"
        answer = await http.post("/v1/assets", json={"prompt": prompt})
        if answer.status_code != 202:
            found[f"refused with {answer.status_code}"] += 1
            continue

        asset = answer.json()
        async with http.stream("GET", asset["events"]) as events:
            names = [line async for line in events.aiter_lines() if line.startswith("event:")]
        text = (await http.get(f"{asset['url']}/files/dry.txt")).text
        right = names[-1] == "event: end" and text.startswith(f"{prompt}\n")
        found["right" if right else "wrong"] += 1
        waits.append(time.perf_counter() - began)


async def load(url: str, clients: int, prompts: int, pid: int) -> dict[str, object]:
    """Let all clients run at once; return what came out."""
    waits: list[float] = []
    found: Counter[str] = Counter()
    memory: list[float] = []
    limits = httpx2.Limits(max_connections=MOST_CONNECTIONS)
    headers = {"Authorization": f"Bearer {TOKEN}"}

    async def watch() -> None:
        while True:
            memory.append(resident_mib(pid))
            await asyncio.sleep(1.0)

    watching = asyncio.create_task(watch())
    began = time.perf_counter()
    async with httpx2.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=None
    ) as http:
        await asyncio.gather(*(client(http, n, prompts, waits, found) for n in range(clients)))
    seconds = time.perf_counter() - began
    watching.cancel()

    half = memory[len(memory) // 2 :]
    return {
        "clients": clients,
        "jobs": clients * prompts,
        "found": dict(found),
        "seconds": round(seconds, 1),
        "wait_s_median": round(statistics.median(waits), 2),
        "wait_s_most": round(max(waits), 2),
        "memory_mib_first": round(memory[0], 1),
        "memory_mib_middle": round(half[0], 1),
        "memory_mib_last": round(resident_mib(pid), 1),
    }


def resident_mib(pid: int) -> float:
    """Return the memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def main() -> None:
    """Run the service and the load, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=5)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "token").write_text(TOKEN)
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "vlm3d_gs", "serve", "--dry-run", "--out", str(out)]
        command += ["--port", "0", "--rate", "0", "--token-file", f"{folder}/token"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            url = next(
                found[0] for line in process.stderr if (found := re.search(r"http://[\d.:]+", line))
            )
            result = asyncio.run(load(url, arguments.clients, arguments.prompts, process.pid))
        finally:
            process.terminate()
            process.wait()

        rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
        ids = Counter(row["id"] for row in rows if row["status"] == "done")
        result["in_the_manifest"], result["twice"] = len(ids), len(rows) - len(ids)
        result["lost"] = arguments.clients * arguments.prompts - len(ids)
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
