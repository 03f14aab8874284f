"""Runs with other critics: the paper's recipe, other families, no gradients, several seeds, the watch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from critic.test_server import Server, server
from critic.test_yes_no import untrained
from integration.test_generate_mini import PROMPT, config, rows
from vlm3d_gs.app.selection import generate_best
from vlm3d_gs.assembly.critic import questions_for
from vlm3d_gs.cli import app
from vlm3d_gs.config import Config, apply_settings, replace_path
from vlm3d_gs.config.recipes import apply_recipe
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.critic import watch
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.mini.critic.model import critic_tokenizer, save_processor
from vlm3d_gs.pipeline import generate

__all__ = ["server"]


def test_the_papers_recipe_asks_one_joint_question_at_every_step_of_the_first_half(
    tmp_path: Path,
) -> None:
    settings = apply_recipe(config(tmp_path / "run"), "vlm3d-paper")
    settings = replace_path(settings, "train.steps", 4)
    generate(settings, quiet=True)
    found = rows(tmp_path / "run")
    assert ["critic/joint" in row for row in found] == [True, True, True, False], "until the half"
    assert not any("critic/semantic" in row for row in found)


def test_every_question_is_logged_and_the_summary_holds_both_readings(tmp_path: Path) -> None:
    out = tmp_path / "run"
    asks = ["Is there a red cube? @ 0.5"]
    settings = config(out, **{"critic.questions.asks": asks, "critic.watch.every": 0.5})
    generate(settings, quiet=True)
    first = rows(out)[0]
    assert {"critic/semantic", "critic/relation", "critic/geometric", "critic/ask_1"} <= set(first)
    watched = json.loads((out / "summary.json").read_text())["watch"]
    assert watched["steps"] == [3, 6]
    assert len(watched["reward"]) == len(watched["held_out"]) == 2
    assert "watch/held_out" in rows(out)[2]


def test_watching_does_not_change_the_run(tmp_path: Path) -> None:
    scenes = []
    for name, on in (("a", True), ("b", False)):
        settings = config(
            tmp_path / name, **{"critic.watch.enabled": on, "critic.watch.every": 0.3}
        )
        scenes.append(generate(settings, quiet=True).gaussians)
    assert torch.equal(scenes[0].means, scenes[1].means)


def test_when_scores_part_the_best_reading_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readings are scripted; that the kept scene reaches the files is what counts here."""
    script = iter([0.0, 5.0, 1.0, -5.0])

    def mean(self: watch.RewardWatch, *_: object) -> float:
        return next(script)

    monkeypatch.setattr(watch.RewardWatch, "_mean", mean)
    out = tmp_path / "run"
    result = generate(config(out, **{"critic.watch.every": 0.5}), quiet=True)
    watched = json.loads((out / "summary.json").read_text())["watch"]
    assert watched["diverged"]
    assert watched["exported_step"] == 3
    monkeypatch.undo()
    half = generate(config(tmp_path / "half"), quiet=True, until=3).gaussians
    assert torch.equal(result.gaussians.means, half.means)
    assert len(read_splat(out / "scene.ply")) == len(half)


@pytest.mark.parametrize(
    ("kind", "family"), [("qwen2_vl", "qwen2-vl-2b"), ("qwen3_vl", "qwen3-vl-2b")]
)
def test_other_families_run_from_a_folder(kind: str, family: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    untrained(kind).save_pretrained(folder)
    save_processor(folder, critic_tokenizer())
    values = {"critic.family": family, "critic.model": str(folder), "critic.size_px": 32}
    generate(config(tmp_path / "run", steps=2, **values), quiet=True)
    assert "critic/geometric" in rows(tmp_path / "run")[0]


def test_a_server_weighs_the_noises(tmp_path: Path, server: Server) -> None:
    values = {
        "critic.mode": "pairwise",
        "critic.select_until": 1.0,
        "critic.family": "server",
        "critic.server.url": server.url,
        "critic.server.model": "any",
    }
    distilling = {"train.loop": "distill", "critic.every": 2}
    generate(config(tmp_path / "run", steps=3, **values, **distilling), quiet=True)
    found = rows(tmp_path / "run")
    assert ["prior/score" in row for row in found] == [True, False, True]
    assert len(server.requests) == 2 * 2 * 5, "two due steps, two noises, five questions"

    # The same server chooses among the candidates of a round.
    before = len(server.requests)
    generate(config(tmp_path / "rounds", steps=3, **values), quiet=True)
    assert "prior/score" in rows(tmp_path / "rounds")[0]
    assert len(server.requests) - before == 3 * 5, "three candidates, five questions"
    summary = json.loads((tmp_path / "rounds" / "summary.json").read_text())
    assert (summary["critic_looks"], summary["critic_looks_left_out"]) == (3, 0)


def test_a_run_goes_on_without_a_server_that_fails_and_says_how_often(
    tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    server.status = 503
    (tmp_path / "key").write_text("very-secret")
    values = {
        "critic.mode": "best-of-n",
        "critic.select_until": 1.0,
        "critic.family": "server",
        "critic.server.url": server.url,
        "critic.server.attempts": 2,
        "critic.server.backoff_s": 0.0,
        "critic.server.key_file": str(tmp_path / "key"),
    }
    out = tmp_path / "run"
    distilling = {"train.loop": "distill", "critic.every": 2}
    result = generate(config(out, steps=3, **values, **distilling))
    assert result.steps == 3
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["critic_looks_left_out"], summary.get("critic_looks", 0)) == (6, 0)
    assert not any("prior/score" in row for row in rows(out))
    said = capfd.readouterr()
    assert "goes on without the critic's look (3 so far)" in said.err
    assert "no answer to 6 of 6 looks" in said.err
    written = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert not any(b"very-secret" in data for data in written)
    assert "very-secret" not in said.err + said.out


def test_distilling_the_critic_chooses_and_pulls_while_the_layout_is_decided(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    half = "linear:0.3@0,0.15@0.5,0@0.5001,0@1"
    distilling = {"train.loop": "distill", "critic.weight": half}
    generate(config(out, **{"critic.select_until": 0.5, **distilling}), quiet=True)
    found = rows(out)
    assert ["prior/score" in row for row in found] == [True, False, True, False, False, False]
    assert ["critic/reward" in row for row in found] == [True, False, True, False, False, False]
    other = {"prior.loss": "ism", "prior.inversion_steps": 1, "train.loop": "distill"}
    both = config(tmp_path / "ism", steps=2, **other)
    with pytest.raises(ConfigError, match="critic.mode=gradient"):
        generate(both, quiet=True)
    generate(config(tmp_path / "ism", steps=2, **other, **{"critic.mode": "gradient"}), quiet=True)
    assert not any("prior/score" in row for row in rows(tmp_path / "ism"))


def test_the_critic_itself_may_list_checks(tmp_path: Path) -> None:
    """The embedded critic writes no questions, so none are added; what counts is that it is asked."""
    questions = questions_for(config(tmp_path / "run", **{"critic.questions.checks": "model"}))
    assert [question.name for question in questions][:2] == ["semantic", "relation"]


def test_the_best_of_several_seeds_is_finished_as_if_it_had_run_alone(tmp_path: Path) -> None:
    settings = config(tmp_path / "best", steps=6)
    result = generate_best(settings, 2, pick_at=0.5, quiet=True)
    scores = json.loads((tmp_path / "best" / "candidates" / "scores.json").read_text())
    picked = scores["picked"]
    assert scores["scores"][str(picked)] == max(scores["scores"].values())
    assert result.steps == 6
    assert sorted(p.name for p in (tmp_path / "best" / "candidates").iterdir()) == [
        "choice.json",
        "scores.json",
        "seed-0",
        "seed-1",
    ]
    alone = generate(
        apply_settings(settings, {"out": tmp_path / "alone", "train.seed": picked}), quiet=True
    )
    assert torch.equal(result.gaussians.means, alone.gaussians.means)


def test_a_choice_among_seeds_that_broke_off_can_be_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path / "best", steps=4)
    begun = []

    def breaks(candidate: Config, **options: object) -> object:
        begun.append(candidate.out.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return generate(candidate, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr("vlm3d_gs.app.selection.generate", breaks)
        with pytest.raises(KeyboardInterrupt):
            generate_best(settings, 2, pick_at=0.5, quiet=True)
    with pytest.raises(ConfigError, match="--overwrite"):
        generate_best(settings, 2, pick_at=0.5, quiet=True)
    assert generate_best(settings, 2, pick_at=0.5, quiet=True, overwrite=True).steps == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "--seeds"),
        (["--seeds", "2", "--pick", "worst"], "--pick"),
        (["--seeds", "2", "--pick-at", "0"], "--pick-at"),
        (["--seeds", "2", "--no-critic"], "critic"),
        (["--recipe", "magic"], "vlm3d-paper"),
        (["--ask", "Is there a red cube? @ x"], "--ask"),
        (["--drop-question", "color"], "color"),
        (["--critic", "server"], "best-of-n"),
        (["--critic", "gpt"], "'gpt' is not one of 'mini'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    arguments: Sequence[str], message: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(app, ["generate", PROMPT, "--out", str(out), *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert not out.exists()


def test_questions_are_listed_by_the_command() -> None:
    result = CliRunner().invoke(app, ["questions", PROMPT])
    assert result.exit_code == 0
    assert "relation" in result.output
    assert "is the red cube on top of the blue sphere?" in result.output


def test_a_recipe_with_candidates_of_a_server_is_refused(tmp_path: Path) -> None:
    values = {"critic.mode": "pairwise", "critic.family": "server"}
    with pytest.raises(ConfigError, match="--seeds"):
        generate_best(config(tmp_path / "run", **values), 2)
