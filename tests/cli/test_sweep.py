"""Every setting and every option with what nobody should write there: one line and exit code 2, or a run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from splat_files import random_splat
from vlm3d_gs.app import bench, selection, viewer
from vlm3d_gs.app.settings import list_settings
from vlm3d_gs.assembly.device import choose_device
from vlm3d_gs.assembly.start import read_prompt
from vlm3d_gs.cli import app
from vlm3d_gs.config import Config, apply_settings, from_dict, to_dict
from vlm3d_gs.config.bounds import Range, check_device, ranges
from vlm3d_gs.config.coerce import is_section
from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.schedules import Schedule
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.images import save_png
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.runs.folder import check_run_folder
from vlm3d_gs.runs.log import write_config

PROMPT = "a red cube on top of a blue sphere"
VALUES = ("nan", "inf", "-1", "0", "1e30", "", "text", "9" * 5000, "1e-320", "9007199254740993")
MOST = 50_000_000
"""No count of anything is larger than this, the seed apart."""


def numbers(data: Any) -> Iterator[float]:
    if isinstance(data, dict | list):
        for item in data.values() if isinstance(data, dict) else data:
            yield from numbers(item)
    elif isinstance(data, int | float) and not isinstance(data, bool):
        yield data


def test_every_setting_takes_a_sane_value_or_says_what_it_allows() -> None:
    start = preset("mini", PROMPT)
    refused: list[str] = []
    for setting in list_settings(start):
        for value in VALUES:
            try:
                config = apply_settings(start, {}, [f"{setting.name}={value}"])
            except ConfigError as error:
                refused.append(str(error))
                continue
            plain = json.loads(json.dumps(to_dict(config), allow_nan=False))
            assert from_dict(plain) == config, (setting.name, value)
            plain["train"]["seed"] = 0
            assert all(math.isfinite(n) and abs(n) <= MOST for n in numbers(plain)), setting.name
    assert len(refused) > 500
    assert not [message for message in refused if "\n" in message or len(message) > 1000]


def bounded(kind: type, hints: Any = None) -> Iterator[tuple[str, Range | None]]:
    """Yield the settings that hold numbers, and the range of each."""
    from typing import get_args, get_type_hints

    for name, hint in get_type_hints(kind).items():
        kinds = {hint, *get_args(hint)}
        if is_section(hint):
            yield from bounded(hint)
        elif kinds & {int, float, Schedule}:
            yield f"{kind.__name__}.{name}", ranges(kind).get(name)


def test_every_number_has_both_bounds() -> None:
    found = dict(bounded(Config))
    assert len(found) > 60
    assert not [name for name, allowed in found.items() if allowed is None]
    assert not [name for name, allowed in found.items() if allowed and math.isinf(allowed.high)]


def test_whole_numbers_keep_all_their_digits() -> None:
    config = apply_settings(preset("mini", PROMPT), {"train.seed": 9007199254740993})
    assert config.train.seed == 9007199254740993
    config = apply_settings(config, {}, ["train.seed=9007199254740995"])
    assert config.train.seed == 9007199254740995
    assert apply_settings(config, {}, ["train.steps=1e3"]).train.steps == 1000


@pytest.mark.parametrize(
    "name", ["cuda:99999999999999999999", "cuda:-1", "cuda:²", "cuda:", "cpu:0", ""]
)
def test_devices_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device must be"):
        check_device(name)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small inputs in the current folder, and stand-ins for what takes long: they check as the real ones do."""
    monkeypatch.chdir(tmp_path)
    write_splat(random_splat(3, 0), "a.ply")
    config = preset("mini", PROMPT)
    Path("run").mkdir()
    write_config(Path("run"), config)
    (tmp_path / "run" / "previews").mkdir()
    save_png(torch.rand(16, 32, 3), "run/previews/step_000001.png")

    def start(config: Config, **options: Any) -> SimpleNamespace:
        read_prompt(config.prompt, config.priors, config.critic)
        check_run_folder(config.out, overwrite=True)
        choose_device(config.device)
        return SimpleNamespace(steps=0, signal=None, message="")

    def start_in_view(config: Config, **options: Any) -> SimpleNamespace:
        return start(config)

    def nothing(*_: Any, **__: Any) -> dict[str, Any]:
        return {}

    monkeypatch.setattr("vlm3d_gs.pipeline.generate", start)
    monkeypatch.setattr(selection, "generate", start)
    monkeypatch.setattr(selection, "_export_best", lambda stopped, *_: stopped)
    exported = SimpleNamespace(graphs=[], runtime_folder=tmp_path)
    times = SimpleNamespace(to_dict=dict)
    monkeypatch.setattr(bench, "measure_and_show", lambda *_, **__: times)
    monkeypatch.setattr(viewer, "show", nothing)
    monkeypatch.setattr("vlm3d_gs.studio.page.serve", nothing)
    Path("prompts.txt").write_text(f"{PROMPT}\n")
    made = SimpleNamespace(message="", signal=None, failed=0)
    monkeypatch.setattr("vlm3d_gs.batch.start.run_batch", lambda *_, **__: made)
    monkeypatch.setattr("vlm3d_gs.serve.run.serve", lambda *_: None)
    monkeypatch.setattr(viewer, "generate_in_view", start_in_view)
    monkeypatch.setattr("vlm3d_gs.prior.export.export_prior", lambda *_, **__: exported)
    return tmp_path


BASE: dict[str, list[str]] = {
    "generate": [PROMPT, "--out", "new", "--overwrite", "--quiet", "--offline"],
    "questions": [PROMPT],
    "plan": [PROMPT],
    "studio": ["run", "--no-browser"],
    "layout": [PROMPT],
    "settings": ["train"],
    "render": ["a.ply", "--out", "a.png", "--size-px", "16", "--overwrite"],
    "film": ["run", "--out", "a.gif", "--overwrite"],
    "html": ["a.ply", "--out", "a.html", "--overwrite"],
    "view": ["a.ply"],
    "mesh": [
        "a.ply",
        "--out",
        "m.glb",
        "--overwrite",
        "--resolution",
        "16",
        "--texture-px",
        "64",
        "--faces",
        "50",
    ],
    "convert": ["a.ply", "b.splat", "--overwrite"],
    "info": ["a.ply"],
    # These three end at what is missing; their own tests make tournaments, groups and proofs.
    "evaluate gpteval": ["run", "--tournament", "run"],
    "compare": ["run", "a.ply", "--out", "a.html"],
    "verify": ["run"],
    "evaluate composition": ["a.ply", "--prompt", PROMPT],
    "models list": [],
    "models pull": ["mini", "--offline"],
    "models export": ["mini"],
    "models check": ["mini"],
    "bench": [PROMPT, "--steps", "1"],
    "batch": ["prompts.txt", "--out", "assets", "--dry-run", "--workers", "1"],
    "serve": ["--out", "served", "--dry-run", "--workers", "1"],
    # It ends at the scene that is there; its own tests refine.
    "refine": ["a.ply", PROMPT, "--out", "a.ply"],
    "doctor": [],
    "setup gpu": ["--dry-run"],
}
"""The shortest sound call of each command."""


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


LEAVES = dict(commands(typer.main.get_command(app)))


def test_every_command_is_swept() -> None:
    assert set(BASE) == set(LEAVES)


@pytest.mark.parametrize("name", list(LEAVES))
def test_every_option_of_a_command(name: str, inputs: Path) -> None:
    def call(arguments: list[str]) -> None:
        result = CliRunner().invoke(app, [*name.split(), *arguments])
        shown = (arguments, result.output, result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit), shown
        assert result.exit_code in (0, 1, 2), shown
        if result.exit_code == 2 and "error: " in result.output:
            error = result.output[result.output.index("error: ") :].strip()
            # One line; several obstacles at once are a list, and the way out of a small vocabulary has its own line.
            more = ("  - ", "For any ")
            assert all(line.startswith(more) for line in error.splitlines()[1:]), shown
        assert "Traceback" not in result.output, shown

    given = 0
    for parameter in LEAVES[name].params:
        if getattr(parameter, "is_flag", False):
            continue
        for value in VALUES[:8]:
            if parameter.param_type_name == "argument":
                call([value, *BASE[name][1:]])
            else:
                call([*BASE[name], f"{parameter.opts[0]}={value}"])
            given += 1
    call(BASE[name])
    assert given or name in ("models list", "doctor")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-critic", "--critic", "mini"],
        ["--no-critic", "--ask", "Is it red?"],
        ["--no-critic", "--critic-every", "3"],
        ["--pick", "best"],
        ["--pick-at", "0.5"],
        ["--pick", "worst"],
    ],
)
def test_options_that_would_be_ignored_are_refused(arguments: list[str], inputs: Path) -> None:
    result = CliRunner().invoke(app, ["generate", *BASE["generate"], *arguments])
    assert result.exit_code == 2, result.output
    assert "error: " in result.output


@pytest.mark.parametrize("command", ["info", "render", "convert"])
def test_names_that_are_not_text_can_be_printed(command: str, inputs: Path) -> None:
    odd = b"\xff\xfe\x1b[31m.ply".decode("utf-8", "surrogateescape")
    Path(odd).write_bytes(Path("a.ply").read_bytes())
    more = {
        "info": [],
        "render": ["--out", f"{odd}.png", "--size-px", "16"],
        "convert": [f"{odd}.glb"],
    }
    result = CliRunner().invoke(app, [command, odd, *more[command]])
    assert result.exit_code == 0, result.exception
    missing = CliRunner().invoke(app, [command, f"no{odd}", *more[command]])
    assert missing.exit_code == 2
    assert "\x1b" not in missing.output


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_too_little_memory_is_one_line(inputs: Path) -> None:
    program = (
        "import resource, sys\n"
        "from vlm3d_gs.cli import app\n"
        "import vlm3d_gs.show.pictures, vlm3d_gs.render.cpu.rasterize\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "most = 4096 * pages + 2**28\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "app(sys.argv[1:])\n"
    )
    calls = (
        ["render", "a.ply", "--out", "b.png", "--size-px", "4000"],
        ["generate", PROMPT, "--out", "new"],
    )
    for arguments in calls:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert "memory" in done.stderr
    assert not Path("new").exists()
    assert not Path("b.png").exists()
