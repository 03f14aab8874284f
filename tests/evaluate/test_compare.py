"""`compare`: groups of runs, who wins, and the page in a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from browser import chromium
from evaluate.judge_server import JudgeServer
from scenes import splats_for
from vlm3d_gs.cli import app
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.evaluate.groups import (
    Group,
    RunFacts,
    differing_settings,
    duels,
    pairs_of,
    read_groups,
)
from vlm3d_gs.formats.convert import write_splat

EVIL = 'a red <script>alert(1)</script> "cube"'


def make_run(
    folder: Path, prompt: str, content: str, seed: int, steps: int = 10, critic: bool = False
) -> None:
    folder.mkdir(parents=True)
    write_splat(splats_for(content), folder / "scene.ply")
    settings = {
        "prompt": prompt,
        "train": {"seed": seed, "steps": steps},
        "critic": {"enabled": critic, "family": "mini"},
    }
    (folder / "config.json").write_text(json.dumps({"config": settings, "seed": seed}))
    (folder / "summary.json").write_text(json.dumps({"seconds": 2.0 * steps, "steps": steps}))
    rows = [{"step": step, "critic/reward": step / 3, "gaussians": 100} for step in range(steps)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    for number, prompt in enumerate(("a red cube", "a blue sphere")):
        make_run(root / "good" / str(number), prompt, prompt, 0)
        make_run(root / "bad" / str(number), prompt, "a white torus", 0, steps=20)
    return root


def facts(prompt: str, seed: int | None, **scores: float) -> RunFacts:
    return RunFacts(Path(f"{prompt}{seed}"), prompt, seed, 1.0, 1, 1, {}, (), None, scores)


def test_runs_pair_by_prompt_and_seed_and_the_better_group_wins() -> None:
    first = Group("a", [facts(f"p{i}", seed, j=0.9) for i in range(8) for seed in (1, 2)])
    second = Group("b", [facts(f"p{i}", seed, j=0.4) for i in range(8) for seed in (2, 3)])
    second.runs.append(facts("alone", 1, j=0.0))
    pairs = pairs_of(first, second)
    assert [(one.prompt, one.seed, other.seed) for one, other in pairs] == [
        (f"p{i}", 2, 2) for i in range(8)
    ]
    (duel,) = duels([first, second], ["j"], {})
    assert (duel.wins, duel.ties, duel.losses) == (8, 0, 0)
    assert duel.difference.value == pytest.approx(0.5)
    assert duel.p == duel.p_holm == pytest.approx(2 / 2**8)


def test_settings_that_differ_are_named() -> None:
    one, other = Group("a", [facts("p", 1)]), Group("b", [facts("p", 1), facts("p", 2)])
    one.runs[0].settings = {"x.y": "1", "out": "there", "same": "s"}
    other.runs[0].settings = {"x.y": "2", "out": "here", "same": "s"}
    other.runs[1].settings = {"x.y": "3", "same": "s"}
    assert differing_settings([one, other]) == {"x.y": ["1", "2 | 3"]}


def test_what_cannot_be_compared_is_said(runs: Path) -> None:
    with pytest.raises(ConfigError, match="at least two"):
        read_groups([runs / "good"], print)
    with pytest.raises(ConfigError, match="named twice"):
        read_groups([runs / "good", runs / "good"], print)
    done = CliRunner().invoke(
        app, ["compare", str(runs / "good"), str(runs / "bad"), "-o", "x.pdf"]
    )
    assert done.exit_code == 2
    assert ".html" in done.output


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    running = JudgeServer()
    yield running
    running.close()


def test_the_page_shows_it_all(runs: Path, tmp_path: Path, server: JudgeServer) -> None:
    make_run(tmp_path / "evil", EVIL, "a red cube", 0)
    page, found = tmp_path / "report.html", tmp_path / "report.json"
    targets = [str(runs / "good"), str(runs / "bad"), str(tmp_path / "evil")]
    judges = ["--judge", "mini", "--judge", f"server:other@{server.url}"]
    done = CliRunner().invoke(
        app, ["compare", *targets, "-o", str(page), "--json", str(found), *judges]
    )
    assert done.exit_code == 0, done.output
    data = json.loads(found.read_text())
    assert "sprites" not in data
    assert [row["runs"] for row in data["groups"]] == [2, 2, 1]
    assert data["groups"][0]["measures"]["checker: right"]["value"] == 1.0
    assert data["settings"]["train.steps"] == ["10", "20", "10"]
    rows = {row["measure"]: row for row in data["duels"]}
    for measure in ("checker: content", "mini (held-out questions)"):
        assert (rows[measure]["wins"], rows[measure]["losses"]) == (2, 0)
    # The server prefers what is dark: a cube and a sphere of strong colours to a white torus.
    side = rows["other, side by side"]
    assert (side["wins"], side["losses"], side["consistency"]) == (2, 0, 1.0)
    # 5 scenes with 2 questions each, one of which is the same about two equal scenes; 2 pairs in 2 orders.
    assert len(server.requests) == 13

    with chromium() as browser:
        browser.open(page.as_uri())
        assert browser.run("document.querySelectorAll('#scenes canvas').length") == 5
        heads = "[...document.querySelectorAll('#scenes h3')].map((h) => h.textContent)"
        assert browser.run(heads)[2] == EVIL
        sort = "document.querySelector('#runs th button').click()"
        first = "document.querySelector('#runs tbody td').textContent"
        browser.run(sort)
        assert browser.run(first) == "bad"
        browser.run(sort)
        assert browser.run(first) == "good"
        browser.run("byId('angle').value = 12; byId('angle').dispatchEvent(new Event('input'))")
        assert browser.run("byId('degrees').textContent") == "180°"
        for width in (1280, 400):
            browser.size(width, 900)
            assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
        assert not browser.errors
        beyond = [url for url in browser.requests if not url.startswith(("file:", "data:"))]
        assert not beyond
