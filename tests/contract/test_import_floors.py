"""Imports go downwards only; heavy libraries have owners; imports in functions are listed."""

from __future__ import annotations

import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

from contract.late_imports import IN_FUNCTION
from contract.source_tree import PACKAGE, Import, imports, modules

ROOMS = [
    "",  # the version and the public names
    # nouns, files, settings
    "core",
    "formats",
    "config",
    # images, weights
    "kernels",
    "render",
    "setup",
    "models",
    "runtime",
    # what a scene holds, and where
    "layout",
    # a run, and what it is optimised for
    "runs",
    "optimize",
    "prior",
    "critic",
    # one run by several processes
    "spread",
    # products, the embedded models, the measure
    "show",
    "edit",
    "mesh",
    "mini",
    "evaluate",
    # what wires them
    "assembly",
    "pipeline",
    "app",
    # many of them
    "batch",
    "studio",
    "serve",
    "cli",
    "__main__",
]
"""Rooms (files or folders of the package), in the order in which they may import each other."""

NO_TORCH = (
    *("", "config", "cli", "__main__", "core.errors", "core.files", "layout", "app.gpu_setup"),
    *("core.bands", "core.quaternions", "core.notices", "core.threads"),
    *(f"formats.{name}" for name in ("arrays", "codec", "convert", "frames", "gltf", "ply", "sog")),
    *(
        f"formats.{name}"
        for name in ("options", "quats", "registry", "spz", "stream", "turn", "usd")
    ),
    *("edit.convert", "edit.settings", "runs.record", "runtime.manifest"),
    *(
        "batch.cluster",
        "batch.display",
        "batch.driver",
        "batch.engine",
        "batch.items",
        "batch.local",
        "batch.manifest",
        "batch.outcome",
        "batch.page",
        "batch.parquet",
        "batch.prompts",
        "batch.run",
        "batch.staging",
        "batch.start",
        "batch.store",
        "batch.worker",
    ),
    "serve",
    *("setup.gpu", "setup.plan", "setup.build", "setup.toolkit", "setup.wheels", "setup.cards"),
    *("setup.bar", "setup.installer", "setup.torch_build", "setup.environment"),
    *("setup.gsplat_state",),
)
"""Rooms and files that never load torch, so that help and settings answer at once."""

HEAVY_OWNERS: dict[str, tuple[str, ...]] = {
    "torch": tuple(room for room in ROOMS if room not in NO_TORCH),
    "numba": (
        "formats.turn",
        "formats.sog.nearest",
        "render",
        "mini.world.raycast",
        "evaluate",
        "mesh",
    ),
    "llvmlite": ("render.cpu.math",),
    "gsplat": ("render.gsplat_backend",),
    "diffusers": ("prior.torch_denoiser", "prior.loading.pipeline", "mini"),
    "onnxruntime": ("runtime.graph",),
    "onnx": ("runtime.export",),
    "onnxscript": ("runtime.export",),
    "transformers": (
        "evaluate.judges.transformers_vlm",
        "critic.qwen.attention",
        "prior.loading.pipeline",
        "critic.qwen.loading",
        "critic.qwen.transformers_qwen",
        "prior.loading.text",
        "mini",
    ),
    "tokenizers": ("critic.qwen.tokenizer", "prior.graph_denoiser", "mini"),
    "jinja2": ("critic.qwen.tokenizer",),
    "filelock": ("runs.folder", "setup.gpu", "batch.manifest", "batch.staging"),
    "fsspec": ("batch.store",),
    "pyarrow": ("batch.parquet",),
    "ray": ("batch.cluster",),
    "fastapi": ("serve.web", "serve.server"),
    "pydantic": ("serve.web",),
    "uvicorn": ("serve.server",),
    "prometheus_client": ("serve.metrics",),
    "huggingface_hub": ("models.hub", "critic.qwen.loading"),
    "httpx2": ("critic.chat",),
    "peft": ("prior.lora",),
    "plyfile": ("mesh.writers",),
    "zstandard": ("formats.spz.stream",),
    "pxr": ("formats.usd", "formats.usd_child"),
    "av": ("show.video", "app.doctor"),
    "PIL": (
        "core.images",
        "formats.sog",
        "layout.draw",
        "show",
        "mesh.writers",
        "evaluate.gpteval.grids",
        "evaluate.judges",
        "evaluate.judging",
        "evaluate.report",
    ),
    "safetensors": (
        "models.integrity",
        "runtime",
        "runs.checkpoint",
        "prior.export",
        "prior.graph_denoiser",
        "critic.qwen.loading",
        "prior.loading.pipeline",
        "prior.loading.text",
        "critic.qwen.small_config",
        "critic.qwen.small_weights",
        "mini",
    ),
    "scipy": (
        "formats.ply.points",
        "edit.select",
        "layout.linear",
        "layout.contact",
        "assembly.settling",
        "evaluate.instances",
        "evaluate.statistics.paired",
        "mesh.atlas",
        "mesh.bake",
    ),
    "skimage": ("mesh.solid",),
    "fast_simplification": ("mesh.solid",),
    "manifold3d": ("mesh.solid",),
    "xatlas": ("mesh.atlas",),
    "trimesh": ("assembly.surfaces",),
    "rich": (
        "runs.progress",
        "batch.display",
        "setup.bar",
        "app.bench",
        "app.settings",
        "app.report",
        "mini",
    ),
    "typer": ("cli", "mini"),
    "viser": ("app.viewer", "app.viewer_server"),
    "websockets": ("app.viewer_server",),
}
"""Library -> the only files or folders of the package that may import it."""

NEVER: set[tuple[str, str]] = {
    ("formats", "optimize.trainer"),
    ("show", "optimize.trainer"),
    ("mesh", "optimize.trainer"),
    ("optimize.trainer", "critic.guidance"),
    ("optimize.trainer", "critic.qwen.yes_no"),
    ("optimize.trainer", "prior.denoiser"),
    ("optimize.trainer", "prior.multiview"),
    ("optimize.trainer", "prior.losses"),
    ("optimize.trainer", "models"),
}
"""Pairs that must not meet even where the floors would allow it."""


def local(module: str) -> str:
    return module.removeprefix(PACKAGE).removeprefix(".")


def room(module: str) -> str:
    return local(module).split(".")[0]


def inside(module: str, place: str) -> bool:
    return local(module) == place or local(module).startswith(f"{place}.")


RANK = {name: rank for rank, name in enumerate(ROOMS)}


def own() -> list[Import]:
    return [found for found in imports() if found.target.split(".")[0] == PACKAGE]


def test_every_room_has_its_place() -> None:
    assert {room(module) for module in modules()} == set(RANK)


def test_imports_go_downwards_only() -> None:
    wrong = [
        f"{found.module}:{found.line} imports {found.target}"
        for found in own()
        if RANK[room(found.target)] > RANK[room(found.module)]
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
    optional = [
        line
        for name in ("gpu", "usd", "export", "parquet", "ray", "serve", "s3", "gcs")
        for line in extras[name]
    ]
    declared = {re.split(r"[>=<\[]", line)[0] for line in project["dependencies"] + optional}
    names = {
        "PIL": "pillow",
        "skimage": "scikit-image",
        "fast_simplification": "fast-simplification",
        "pxr": "usd-core",
        "prometheus_client": "prometheus-client",
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


def test_files_without_torch_load_none() -> None:
    wrong = [
        f"{found.module}:{found.line}"
        for found in imports()
        if found.target.split(".")[0] == "torch" and not found.in_function
        if any(
            local(found.module) == place or (place and inside(found.module, place))
            for place in NO_TORCH
        )
    ]
    assert not wrong, wrong


def test_the_room_table_names_each_room_once() -> None:
    assert max(Counter(ROOMS).values()) == 1


def test_the_architecture_page_names_every_room_in_order(repo_root: Path) -> None:
    page = (repo_root / "docs" / "ARCHITECTURE.md").read_text()
    table = page.partition("| room |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `([\w.]+)", table, re.M)
    assert [name.removesuffix(".py") for name in named] == [name or "__init__" for name in ROOMS]
