"""The products of a run: one file each, all of them named for --overwrite."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from vlm3d_gs.assembly.products import write_products
from vlm3d_gs.config import Config, ExportConfig, ExportFormat
from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.runs.folder import OWN_FILES
from vlm3d_gs.runs.log import RunLog


def test_every_product_has_a_name_that_overwrite_knows() -> None:
    names = [product.file for product in PRODUCTS.values()]
    assert len(set(names)) == len(names)
    assert set(names) <= set(OWN_FILES)
    assert get_args(ExportFormat) == tuple(PRODUCTS)
    with pytest.raises(ConfigError, match=r"ply, .*sheet, got 'obj'"):
        ExportConfig(formats=("ply", "obj"))


def test_splats_and_page_are_written_and_read_again(tmp_path: Path) -> None:
    kinds = tuple(
        name for name, product in PRODUCTS.items() if product.kind == "splat" and name != "usdc"
    )
    config = Config(
        prompt="a <red> cube", out=tmp_path, export=ExportConfig(formats=("html", *kinds))
    )
    scene = ball(60, 0.4, torch.Generator().manual_seed(0), opacity=0.6)
    with RunLog(tmp_path, config, quiet=True):
        said: list[str] = []
        written = write_products(scene, config, said.append)
    files = written.files
    assert not written.failures
    # Splats are written and announced first, whatever the order they were asked for in.
    assert said == [f"{path} is there" for path in files[:-1]]
    assert [path.name for path in files] == [PRODUCTS[kind].file for kind in (*kinds, "html")]
    for path in files[:-1]:
        again = read_splat(path)
        assert len(again) == len(scene), path.name
        assert (again.means.mean(0) - scene.means.mean(0)).abs().max() < 1e-2, path.name
    page = files[-1].read_text()
    assert "a <red> cube" not in page


def test_what_the_run_folder_does_not_take_is_written_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    refuge = tmp_path / "refuge"
    refuge.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(refuge))
    config = Config(
        prompt="a red cube",
        out=tmp_path / "file" / "run",
        export=ExportConfig(formats=("ply", "splat", "html")),
    )
    scene = ball(60, 0.4, torch.Generator().manual_seed(0), opacity=0.6)
    written = write_products(scene, config, lambda line: None)
    assert written.elsewhere is not None
    assert written.elsewhere.parent == refuge
    names = sorted(path.name for path in written.elsewhere.iterdir())
    assert names == ["scene.ply", "scene.splat"]
    assert [str(error) for error in written.failures[:1]] == [
        f"Cannot write {config.out}: not a directory. A part of the path is a file, not a folder; "
        "choose another place."
    ]
