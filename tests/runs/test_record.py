"""export.record: what a run's folder tells, also an unfinished, torn or damaged one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.runs.record import MAX_POINTS, charts, find_splat, read_record


def folder(tmp_path: Path, rows: str = "", config: str | None = None) -> Path:
    settings = {"config": {"prompt": "a red cube", "train": {"steps": 7}}, "seed": 3}
    (tmp_path / "config.json").write_text(config or json.dumps(settings))
    (tmp_path / "metrics.jsonl").write_text(rows)
    return tmp_path


def test_an_interrupted_run_has_a_record_up_to_the_torn_row(tmp_path: Path) -> None:
    record = read_record(folder(tmp_path, '{"step": 1, "prior/loss": 2.0}\n{"step": 2, "prior/lo'))
    assert record.prompt == "a red cube"
    assert record.planned_steps == 7
    assert record.summary == {}
    assert [row["step"] for row in record.rows] == [1]


def test_long_curves_are_thinned_to_means(tmp_path: Path) -> None:
    rows = [{"step": step, "prior/loss": float(step % 2)} for step in range(1, 1001)]
    record = read_record(folder(tmp_path, "\n".join(map(json.dumps, rows))))
    (chart,) = charts(record)
    (series,) = chart.series
    assert len(series.steps) == 250 <= MAX_POINTS
    assert series.steps[-1] == 1000
    assert set(series.values) == {0.5}


def test_what_is_no_number_makes_a_gap_and_an_all_empty_curve_is_left_out(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "critic/semantic": None, "prior/loss": "high", "gaussians": True},
        {"step": 2, "critic/semantic": 1.5, "prior/loss": None, "gaussians": None},
    ]
    found = charts(read_record(folder(tmp_path, "\n".join(map(json.dumps, rows)))))
    assert [chart.title for chart in found] == ["Reward, log-odds of Yes"]
    assert found[0].series[0].values == (None, 1.5)


def test_no_metrics_no_curves(tmp_path: Path) -> None:
    assert charts(read_record(folder(tmp_path))) == ()


@pytest.mark.parametrize("config", ["{", "[1]", "\ufeff{}x"])
def test_a_damaged_config_is_named(tmp_path: Path, config: str) -> None:
    with pytest.raises(InputFileError, match=r"config\.json"):
        read_record(folder(tmp_path, config=config))


def test_odd_but_whole_settings_are_taken_as_saying_nothing(tmp_path: Path) -> None:
    record = read_record(folder(tmp_path, config='{"config": [1], "seed": {}}'))
    assert (record.prompt, record.planned_steps) == ("", None)


def test_a_path_means_a_file_or_a_finished_run(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no file or run folder"):
        find_splat(tmp_path / "nothing")
    with pytest.raises(InputFileError, match=r"no config\.json"):
        find_splat(tmp_path)
    run = folder(tmp_path)
    with pytest.raises(InputFileError, match=r"no scene\.ply yet"):
        find_splat(run)
    (run / "scene.ply").write_bytes(b"ply")
    path, record = find_splat(run)
    assert path == run / "scene.ply"
    assert record is not None
    assert find_splat(path) == (path, None)


def test_rows_that_no_number_or_reader_can_hold_end_the_curves(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    rows = [
        '{"step": 1, "prior/loss": 2.5}',
        f'{{"step": 2, "prior/loss": {"9" * 400}}}',
        "[" * 9000,
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows))
    (chart,) = charts(read_record(tmp_path))
    assert chart.series[0].values == (2.5, None)
    (tmp_path / "config.json").write_text("[" * 9000)
    with pytest.raises(InputFileError, match="Cannot read"):
        read_record(tmp_path)
