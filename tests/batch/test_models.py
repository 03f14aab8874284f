"""Assets of a worker that keeps its models are those of single runs, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vlm3d_gs.assembly.kept import keep_models, kept
from vlm3d_gs.batch.halving import Rate, cost, generate_within
from vlm3d_gs.batch.items import Item, Shared, item_config
from vlm3d_gs.batch.models import ModelEngine
from vlm3d_gs.batch.outcome import Outcome, digests
from vlm3d_gs.batch.worker import make_asset
from vlm3d_gs.core.errors import CheckpointError
from vlm3d_gs.pipeline import generate
from vlm3d_gs.runs.folder import CHECKPOINT

SHORT = Shared(settings=(("export.formats", "ply"), ("train.steps", "3")))


def item(prompt: str, id: str = "x1") -> Item:
    return Item(prompt, id=id, content=id)


def asset(engine: ModelEngine, out: Path, what: Item, shared: Shared = SHORT) -> Outcome:
    return make_asset(engine, what, shared, out, lambda step, steps: False)


def test_an_asset_after_another_has_the_bytes_of_a_single_run(tmp_path: Path) -> None:
    engine = ModelEngine(device="cpu")
    asset(engine, tmp_path, item("a red cube on top of a blue sphere", "a1"))
    second = asset(engine, tmp_path, item("a green cone", "b1"))
    assert second.status == "done", second.reason
    assert not (tmp_path / second.folder / CHECKPOINT).exists()

    config = replace(item_config(item("a green cone"), SHORT, tmp_path / "single"), device="cpu")
    alone = generate(config, quiet=True)
    assert second.files == digests(config.out, alone.files)
    assert second.held_out == alone.held_out


def test_a_stopped_asset_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    engine = ModelEngine(device="cpu")
    what, at = item("a red cube"), Path("x1/x1")
    whole = asset(engine, tmp_path / "whole", what)
    out = tmp_path / "stopped"
    stopped = make_asset(engine, what, SHORT, out, lambda step, steps: step == 2)
    assert (stopped.status, stopped.steps) == ("stopped", 2)
    assert (out / "assets" / at / CHECKPOINT).exists()
    assert asset(engine, out, what).files == whole.files


def test_an_unknown_word_is_an_outcome_with_its_reason(tmp_path: Path) -> None:
    outcome = asset(ModelEngine(device="cpu"), tmp_path, item("a purple dragon"))
    assert (outcome.status, outcome.kind) == ("failed", "PromptError")
    assert "dragon" in outcome.reason


def test_a_budget_halves_seeds_and_keeps_the_best(tmp_path: Path) -> None:
    shared = replace(SHORT, settings=(("export.formats", "ply"), ("train.steps", "5")))
    config = replace(item_config(item("a red cube"), shared, tmp_path / "run"), device="cpu")
    seeds: list[int] = []
    # As fast as this, two seeds are paid, and four are not.
    rate, budget_s = Rate(step_s=1.0), 5 * (cost(1) + 0.01)
    stop = True

    def stop_once(state, scalars, stop_requested) -> bool:  # type: ignore[no-untyped-def]
        nonlocal stop
        return stop and state.step == 1

    stopped = generate_within(config, budget_s, None, rate, observe=stop_once, tell=seeds.append)
    assert (stopped.steps, seeds) == (1, [2]), "stopped in the middle of a seed"
    stop = False
    result = generate_within(config, budget_s, None, rate, resume=True, observe=stop_once)
    assert result.steps == 5
    scores = (config.out / "candidates" / "halving.json").read_text()
    assert '"rounds": 1' in scores

    (config.out / "candidates" / "halving.json").unlink()
    with pytest.raises(CheckpointError, match="does not choose within a budget"):
        generate_within(config, budget_s, None, rate, resume=True)


def test_the_cost_of_halving_is_that_of_its_rounds() -> None:
    # Rounds end at 0.1, 0.2 and 0.4 of the run.
    assert cost(3) == pytest.approx(8 * 0.1 + 4 * 0.1 + 2 * 0.2 + 0.6)
    assert cost(0) == 1.0


def test_models_are_kept_inside_a_block_and_few_of_them() -> None:
    loaded: list[int] = []

    def load(number: int) -> int:
        loaded.append(number)
        return number

    assert [kept(1, lambda: load(1)) for _ in range(2)] == [1, 1]
    assert loaded == [1, 1], "outside nothing is kept"
    with keep_models(most=2):
        for key in (1, 2, 1, 3, 1, 2):
            kept(key, lambda key=key: load(key))
    assert loaded[2:] == [1, 2, 3, 2], "the one unused for longest goes"
