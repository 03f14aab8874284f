"""Imports go downwards only; heavy libraries have owners; imports in functions are listed."""

from __future__ import annotations

import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

from contract.source_tree import PACKAGE, Import, imports, modules

FLOORS: list[list[str]] = [
    # 0: no torch
    ["errors", "files", "schedules", "records", "config", "presets", "recipes", ""],
    # 1: torch only
    ["checks", "seeding", "rotations", "harmonics", "images", "kernels", "parts"],
    # 2: nouns
    ["scene", "cameras", "prompts", "initialize"],
    # 3: image formation
    ["render"],
    # 4: the objective
    ["guidance", "regularizers"],
    # 5: the run, the products, the embedded models, the measure
    [
        "models",
        "optimizer",
        "densify",
        "mcmc",
        "checkpoint",
        "progress",
        "runlog",
        "interrupt",
        "stale",
        "trainer",
        "watch",
        "export",
        "mesh",
        "mini",
        "evaluate",
    ],
    # 6: doors
    ["doctor", "planning", "pipeline", "selection", "batch", "bench", "viewer", "cli", "__main__"],
]
"""Areas (files or folders of the package), in the order in which they may import each other."""

HEAVY_OWNERS: dict[str, tuple[str, ...]] = {
    "torch": tuple(area for floor in FLOORS[1:] for area in floor if area != "cli"),
    "numba": ("render", "mini.raycast", "evaluate", "mesh"),
    "llvmlite": ("render.cpu_math",),
    "gsplat": ("render.gsplat_backend",),
    "diffusers": ("guidance.denoiser", "guidance.loading", "mini"),
    "transformers": (
        "guidance.attention",
        "guidance.loading",
        "guidance.messages",
        "guidance.text",
        "guidance.vlm",
        "mini",
    ),
    "tokenizers": ("mini",),
    "huggingface_hub": ("models.hub",),
    "peft": ("guidance.adapters",),
    "plyfile": ("export.ply", "mesh.writers"),
    "zstandard": ("export.spz",),
    "pxr": ("export.usd",),
    "imageio": ("export",),
    "imageio_ffmpeg": ("export", "doctor"),
    "PIL": ("images", "export", "mesh.writers"),
    "safetensors": ("checkpoint", "guidance.loading", "guidance.text", "mini"),
    "scipy": ("mesh.atlas", "mesh.bake"),
    "skimage": ("mesh.solid",),
    "fast_simplification": ("mesh.solid",),
    "manifold3d": ("mesh.solid",),
    "xatlas": ("mesh.atlas",),
    "rich": ("progress", "bench", "mini"),
    "typer": ("cli", "mini"),
    "viser": ("viewer",),
}
"""Library -> the only files or folders of the package that may import it."""

IN_FUNCTION: set[tuple[str, str]] = {
    # doors, so that --help and the other commands stay quick
    ("cli.doctor", "vlm3d_gs.doctor"),
    ("cli.generate", "vlm3d_gs.pipeline"),
    ("cli.generate", "vlm3d_gs.selection"),
    ("cli.questions", "vlm3d_gs.pipeline"),
    ("cli.mesh", "vlm3d_gs.mesh.extract"),
    ("cli.mesh", "vlm3d_gs.mesh.product"),
    ("cli.mesh", "vlm3d_gs.pipeline"),
    ("cli.mesh", "vlm3d_gs.render"),
    ("pipeline", "vlm3d_gs.mesh"),
    ("cli.models", "vlm3d_gs.models.listing"),
    ("cli.generate", "vlm3d_gs.viewer"),
    ("cli.view", "vlm3d_gs.viewer"),
    ("cli.render", "vlm3d_gs.export.pictures"),
    ("cli.film", "vlm3d_gs.export.film"),
    ("cli.html", "vlm3d_gs.export.page"),
    ("cli.html", "vlm3d_gs.export.formats"),
    ("cli.html", "vlm3d_gs.export.record"),
    ("cli.convert", "vlm3d_gs.export.formats"),
    ("cli.convert", "vlm3d_gs.export.frames"),
    ("cli.convert", "vlm3d_gs.export.ply"),
    ("cli.convert", "vlm3d_gs.export.spz"),
    ("cli.bench", "vlm3d_gs.bench"),
    ("cli.bench", "vlm3d_gs.config"),
    ("cli.bench", "vlm3d_gs.presets"),
    ("cli.bench", "vlm3d_gs.runlog"),
    ("cli.info", "vlm3d_gs.export.splat_info"),
    ("cli.info", "vlm3d_gs.export.spz"),
    ("cli.render", "vlm3d_gs.export.formats"),
    ("cli.render", "vlm3d_gs.export.turntable"),
    ("cli.evaluate", "vlm3d_gs.evaluate.runs"),
    ("cli.evaluate", "vlm3d_gs.evaluate.targets"),
    # weights in a folder or in the package need no hub
    ("models", "vlm3d_gs.models.hub"),
    # doctor reports what cannot be imported instead of failing on it
    ("doctor", "torch"),
    ("doctor", "imageio_ffmpeg"),
    # factories: a backend's library is loaded when that backend is chosen
    ("render", "vlm3d_gs.render.cpu"),
    ("render", "vlm3d_gs.render.reference"),
    ("render", "vlm3d_gs.render.gsplat_backend"),
    # an extra: only those who ask for USD need it
    ("export.usd", "pxr"),
    # after CUDA was found, so that the adapter itself is tested where gsplat is not installed
    ("render.gsplat_backend", "gsplat"),
    ("guidance", "vlm3d_gs.guidance.denoiser"),
    ("guidance", "vlm3d_gs.guidance.adapters"),
    ("guidance", "vlm3d_gs.guidance.critic"),
    ("guidance", "vlm3d_gs.guidance.loading"),
    ("guidance", "vlm3d_gs.guidance.prior"),
    ("guidance", "torch"),
    ("guidance", "vlm3d_gs.guidance.checklist"),
    ("guidance", "vlm3d_gs.guidance.judge"),
    ("guidance", "vlm3d_gs.guidance.memory"),
    ("guidance", "vlm3d_gs.guidance.ranked"),
    ("guidance", "vlm3d_gs.guidance.server"),
    ("guidance", "vlm3d_gs.guidance.vlm"),
    ("guidance", "vlm3d_gs.guidance.view_prompts"),
    ("guidance", "vlm3d_gs.guidance.text"),
}
"""(module without the package's name, what it imports inside a function)."""

NEVER: set[tuple[str, str]] = {
    ("export", "trainer"),
    ("mesh", "trainer"),
    ("trainer", "guidance.critic"),
    ("trainer", "guidance.vlm"),
    ("trainer", "guidance.denoiser"),
    ("trainer", "guidance.multiview"),
    ("trainer", "guidance.distillation"),
    ("trainer", "models"),
}
"""Pairs that must not meet even where the floors would allow it."""


def local(module: str) -> str:
    return module.removeprefix(PACKAGE).removeprefix(".")


def area(module: str) -> str:
    return local(module).split(".")[0]


def inside(module: str, place: str) -> bool:
    return local(module) == place or local(module).startswith(f"{place}.")


RANK = {name: (floor, i) for floor, names in enumerate(FLOORS) for i, name in enumerate(names)}


def own() -> list[Import]:
    return [found for found in imports() if found.target.split(".")[0] == PACKAGE]


def test_every_area_has_a_floor() -> None:
    assert {area(module) for module in modules()} <= set(RANK)


def test_imports_go_downwards_only() -> None:
    wrong = [
        f"{found.module}:{found.line} imports {found.target}"
        for found in own()
        if area(found.module) != area(found.target)
        and RANK[area(found.target)] >= RANK[area(found.module)]
        # The version is a constant of the package itself.
        and local(found.target) != ""
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for found in own():
        if not found.in_function and local(found.target) != "":
            graph[found.module].add(found.target)
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])


def test_heavy_libraries_are_imported_by_their_owners_only() -> None:
    wrong = [
        f"{found.module}:{found.line} imports {found.target}"
        for found in imports()
        for owners in [HEAVY_OWNERS.get(found.target.split(".")[0])]
        if owners is not None and not any(inside(found.module, owner) for owner in owners)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_library_is_known() -> None:
    light = {"numpy", "numpy.typing", PACKAGE}
    unknown = {
        found.target.split(".")[0]
        for found in imports()
        if found.target.split(".")[0] not in sys.stdlib_module_names
    } - {name.split(".")[0] for name in light | set(HEAVY_OWNERS)}
    assert not unknown, f"give these an owner in HEAVY_OWNERS: {unknown}"


def test_every_library_is_a_declared_dependency(repo_root: Path) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    optional = extras["gpu"] + extras["usd"]
    declared = {re.split("[>=<]", line)[0] for line in project["dependencies"] + optional}
    names = {
        "PIL": "pillow",
        "imageio_ffmpeg": "imageio-ffmpeg",
        "skimage": "scikit-image",
        "fast_simplification": "fast-simplification",
        "pxr": "usd-core",
    }
    assert {names.get(library, library) for library in HEAVY_OWNERS} <= declared


def test_imports_inside_functions_are_listed() -> None:
    found = {
        (local(found.module), found.target)
        for found in imports()
        if found.in_function and found.target.split(".")[0] not in sys.stdlib_module_names
    }
    assert found <= IN_FUNCTION, found - IN_FUNCTION


def test_pairs_that_must_not_meet_do_not() -> None:
    wrong = [
        f"{found.module}:{found.line} imports {found.target}"
        for found in own()
        for module, target in NEVER
        if inside(found.module, module) and inside(found.target, target)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_floor_table_names_each_area_once() -> None:
    assert max(Counter(name for floor in FLOORS for name in floor).values()) == 1


def test_the_architecture_page_names_every_area(repo_root: Path) -> None:
    page = (repo_root / "docs" / "ARCHITECTURE.md").read_text()
    table = page.partition("| floor |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", table))
    assert named == {name or "__init__" for floor in FLOORS for name in floor}
