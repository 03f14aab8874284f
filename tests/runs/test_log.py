from __future__ import annotations

import json
import math
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import vlm3d_gs
from vlm3d_gs.config import Config, from_dict
from vlm3d_gs.runs.log import RunLog, git_commit

CONFIG = Config(prompt="a red cube")


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_run_folder_carries_config_versions_and_seed(tmp_path: Path) -> None:
    with RunLog(tmp_path, CONFIG, quiet=True):
        pass
    saved = json.loads((tmp_path / "config.json").read_text())
    assert from_dict(saved["config"]) == CONFIG
    assert saved["seed"] == CONFIG.train.seed
    assert saved["versions"]["vlm3d_gs"] == vlm3d_gs.__version__
    assert saved["versions"]["torch"] == version("torch")
    assert "commit" in saved


def test_scalars_are_one_row_a_step_and_on_disk_at_once(tmp_path: Path) -> None:
    with RunLog(tmp_path, CONFIG, quiet=True) as log:
        log.scalars(0, {"loss": torch.tensor(0.5), "gaussians": 100})
        log.scalars(1, {"loss": 0.25})
        assert rows(tmp_path) == [
            {"step": 0, "loss": 0.5, "gaussians": 100},
            {"step": 1, "loss": 0.25},
        ]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with RunLog(tmp_path, CONFIG, quiet=True) as log:
        log.scalars(0, {"loss": math.nan, "reward": torch.tensor(math.inf)})
        log.summary({"best": math.nan, "rewards": {"content": [1.0, -math.inf]}})
    assert rows(tmp_path) == [{"step": 0, "loss": None, "reward": None}]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["best"] is None
    assert summary["rewards"] == {"content": [1.0, None]}
    assert "versions" in summary


def test_going_on_keeps_earlier_rows_and_drops_later_and_torn_ones(tmp_path: Path) -> None:
    with RunLog(tmp_path, CONFIG, quiet=True) as log:
        for step in range(5):
            log.scalars(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    with RunLog(tmp_path, CONFIG, quiet=True, resume_step=2) as log:
        log.scalars(3, {"loss": 30.0})
    assert [row["loss"] for row in rows(tmp_path)] == [0.0, 1.0, 2.0, 30.0]


def test_a_new_run_starts_its_metrics_anew(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        with RunLog(tmp_path, CONFIG, quiet=True) as log:
            log.scalars(0, {"loss": value})
    assert rows(tmp_path) == [{"step": 0, "loss": 2.0}]


def test_the_log_closes_when_the_run_fails(tmp_path: Path) -> None:
    log = RunLog(tmp_path, CONFIG, quiet=True)

    def fail() -> None:
        with log:
            log.scalars(0, {"loss": 1.0})
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert len(rows(tmp_path)) == 1
    with pytest.raises(ValueError, match="closed"):
        log.scalars(1, {"loss": 1.0})


def test_the_commit_is_a_hash_or_nothing() -> None:
    commit = git_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40
