"""The nodes for ComfyUI: by its own loader and executor where it is installed, and by their contract anywhere."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from integrations.comfy_core import Core, Interrupted, Splat
from splat_files import random_splat
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.prompts import parse_composition
from vlm3d_gs.formats.convert import read_splat, write_splat
from vlm3d_gs.mini.world.scenes import build_scene
from vlm3d_gs.mini.world.splats import scene_to_gaussians

COMFYUI = "VLM3D_GS_COMFYUI"
"""Names the folder of a ComfyUI whose Python runs these tests."""
OWN = {"Generate", "Refine", "Judge", "Convert", "Load", "Save"}


@pytest.fixture
def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Core:
    core = Core(tmp_path)
    core.install(monkeypatch)
    return core


@pytest.fixture
def nodes(core: Core, repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The nodes by their ids, found as the core's loader finds them: the folder imported, its entry point called."""
    folder = repo_root / "integrations" / "comfyui"
    name = "custom_nodes_vlm3d_gs"
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    for used in (name, f"{name}.nodes", f"{name}.splats"):
        monkeypatch.setitem(sys.modules, used, module)
        if used != name:
            monkeypatch.delitem(sys.modules, used)
    spec.loader.exec_module(module)

    async def entered() -> list[Any]:
        return await (await module.comfy_entrypoint()).get_node_list()

    found = {node.define_schema().node_id: node for node in asyncio.run(entered())}
    return {name.removeprefix("VLM3DGS_"): node for name, node in found.items()}


@pytest.fixture
def cube() -> Gaussians:
    scene = build_scene(parse_composition("a red cube"))
    return scene_to_gaussians(scene, 1500, torch.Generator().manual_seed(0))


def run(node: Any, **values: Any) -> tuple[Any, ...]:
    """Execute as the core does: by keywords that are the ids of the inputs, without gradients."""
    assert set(values) == {item.name for item in node.define_schema().inputs}
    with torch.inference_mode():
        output = node.execute(**values)
    assert len(output.values) == len(node.define_schema().outputs)
    return output.values


def as_core(nodes: dict[str, Any], gaussians: Gaussians) -> Splat:
    return sys.modules[f"{nodes['Save'].__module__.rpartition('.')[0]}.splats"].to_core(gaussians)


def test_schemas_say_what_the_core_asks_for(nodes: dict[str, Any]) -> None:
    assert set(nodes) == OWN
    for node in nodes.values():
        schema = node.define_schema()
        assert schema.category == "3d/vlm3d-gs"
        assert schema.display_name.endswith("(vlm3d-gs)")
        for item in schema.inputs:
            if item.kind == "Combo" and item.name != "file":
                assert item.said["default"] in item.said["options"]
    assert nodes["Save"].define_schema().is_output_node


def test_splats_are_as_the_core_holds_them(nodes: dict[str, Any]) -> None:
    scene = random_splat(40, 2)
    splat = as_core(nodes, scene)
    assert splat.positions.shape == (1, 40, 3)
    assert splat.opacities.shape == (1, 40, 1)
    assert splat.sh.shape == (1, 40, 9, 3)
    torch.testing.assert_close(splat.scales[0], scene.scales)
    torch.testing.assert_close(splat.opacities[0, :, 0], scene.opacities)
    torch.testing.assert_close(splat.rotations.norm(dim=-1), torch.ones(1, 40))
    # x right, y down, z away: what is on top has the smallest y, what is in front the smallest z.
    x, y, z = scene.means.unbind(-1)
    torch.testing.assert_close(splat.positions[0], torch.stack([y, -z, -x], -1))

    module = sys.modules[f"{nodes['Save'].__module__.rpartition('.')[0]}.splats"]
    back = module.from_core(splat)
    torch.testing.assert_close(back.means, scene.means)
    torch.testing.assert_close(back.sh, scene.sh, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(back.covariances, scene.covariances, atol=1e-5, rtol=1e-4)

    # A batch of several is padded; its first one is taken.
    padded = Splat(*vars(splat).values())
    padded.counts = torch.tensor([30])
    assert len(module.from_core(padded)) == 30
    padded.counts = torch.tensor([0])
    with pytest.raises(InputFileError, match="empty"):
        module.from_core(padded)


def test_a_sentence_becomes_a_splat_and_is_refined_and_judged(
    core: Core, nodes: dict[str, Any]
) -> None:
    wish = {"prompt": "a red cube", "preset": "mini-draft", "seed": 1}
    splat, views, answers = run(nodes["Generate"], **wish, critic="as the preset", steps=3)
    assert splat.positions.shape[1] > 100
    assert (views.shape, views.dtype) == ((4, 512, 512, 3), torch.float32)
    assert 0.0 <= float(views.min()) < float(views.max()) <= 1.0
    assert "Do these views show a red cube?" in answers
    assert [row[:2] for row in core.bar] == [(1, 3), (2, 3), (3, 3)]
    assert core.bar[0][2][0] == "JPEG"

    better, accepted, verdict = run(nodes["Refine"], splat=splat, **wish, keep=0.0, steps=2)
    assert "the held-out judge goes from" in verdict
    assert (better is splat) is not accepted
    assert not list((core.root / "temp").iterdir())

    core.cancelled = True
    with pytest.raises(Interrupted):
        run(nodes["Generate"], **wish, critic="none", steps=3)


def test_the_judge_tells_a_cube_from_a_sphere(nodes: dict[str, Any], cube: Gaussians) -> None:
    splat = as_core(nodes, cube)
    right, _, cube_said = run(nodes["Judge"], splat=splat, prompt="a red cube", judge="mini")
    wrong, all_yes, said = run(nodes["Judge"], splat=splat, prompt="a blue sphere", judge="mini")
    assert right > wrong
    assert cube_said.startswith("Yes (log-odds")
    assert said.startswith("No (log-odds")
    assert not all_yes


def test_files_are_converted_saved_and_loaded(
    core: Core, nodes: dict[str, Any], cube: Gaussians
) -> None:
    splat = as_core(nodes, cube)
    (file,) = run(nodes["Convert"], splat=splat, format=".splat: splat, splat")
    (core.root / "made.splat").write_bytes(file.content)
    assert file.format == "splat"
    assert len(read_splat(core.root / "made.splat")) == len(cube)

    node = nodes["Save"]
    with torch.inference_mode():
        shown = node.execute(splat=splat, format=".spz: splat, spz", filename_prefix="3d/a")
    saved = shown.ui["3d"][0]
    assert saved == {"filename": "a_00001_.spz", "subfolder": "3d", "type": "output"}
    assert len(read_splat(core.root / "output" / "3d" / "a_00001_.spz")) == len(cube)

    nodes["Load"].define_schema()  # makes the folder
    source = core.root / "input" / "3d" / "cube.compressed.ply"
    write_splat(cube, source)
    assert nodes["Load"].define_schema().inputs[0].said["options"] == ["3d/cube.compressed.ply"]
    assert nodes["Load"].validate_inputs("3d/cube.compressed.ply") is True
    assert "no splat file" in nodes["Load"].validate_inputs("3d/none.ply")
    before = nodes["Load"].fingerprint_inputs("3d/cube.compressed.ply")
    (loaded,) = run(nodes["Load"], file="3d/cube.compressed.ply")
    assert loaded.positions.shape == (1, len(cube), 3)
    write_splat(random_splat(5, 0), source)
    assert nodes["Load"].fingerprint_inputs("3d/cube.compressed.ply") != before


LOADED = """
import asyncio, sys
root, folder = sys.argv[1:]
sys.path.insert(0, root)
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import nodes
assert asyncio.run(nodes.load_custom_node(folder))
for name in NAMES:
    node = nodes.NODE_CLASS_MAPPINGS["VLM3DGS_" + name]
    print(name, node.INPUT_TYPES(), node.RETURN_TYPES)
"""


def test_the_cores_own_loader_takes_them(repo_root: Path) -> None:
    root = os.environ.get(COMFYUI)
    if root is None:
        pytest.skip(f"needs ComfyUI: {COMFYUI}=FOLDER, with the Python that it runs in")
    program = LOADED.replace("NAMES", repr(sorted(OWN)))
    folder = repo_root / "integrations" / "comfyui"
    said = subprocess.run(
        [sys.executable, "-c", program, root, folder], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert [line.split()[0] for line in said.stdout.splitlines()[-len(OWN) :]] == sorted(OWN)
    assert "('SPLAT',)" in said.stdout
