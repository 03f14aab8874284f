"""The list of packages in summary.json."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from vlm3d_gs.config.presets import preset
from vlm3d_gs.runs.log import RunLog
from vlm3d_gs.runs.packages import packages


def test_a_summary_names_every_package_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with RunLog(tmp_path / "run", preset("mini", "a red cube"), quiet=True) as log:
        log.summary({"steps": 3})
    listed = json.loads((tmp_path / "run" / "summary.json").read_text())["packages"]
    assert listed == packages()
    names = [item["name"].lower() for item in listed]
    assert len(set(names)) == len(names) > 20
    torch = next(item for item in listed if item["name"] == "torch")
    assert torch["version"] == version("torch")
    assert torch["purl"].startswith("pkg:pypi/torch@")
