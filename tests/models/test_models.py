from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from fake_hub import WEIGHTS, FakeHub, Repository, fake_hub, pipeline_files, write
from vlm3d_gs import models
from vlm3d_gs.core.errors import MissingDependencyError, ModelError
from vlm3d_gs.models import CATALOGUE, catalogue_entry, embedded_weights, locate
from vlm3d_gs.models.catalogue import ENTRIES, entry_with_id
from vlm3d_gs.models.layout import local_files, needed_files, problems
from vlm3d_gs.models.listing import check, listing, pull

FIRST, SECOND = catalogue_entry("sd").ids
FORMER = catalogue_entry("sd").former_ids[0]


EXPECTED = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and the hub's library allowed to contact the hub on this machine."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def set_endpoint(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Set the hub's address, as the environment variable HF_ENDPOINT does for a new process."""
    patch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub({}) as running:
        set_endpoint(monkeypatch, running.endpoint)
        yield running


def test_one_set_of_weights_per_component_is_fetched_and_no_pickle_and_no_code() -> None:
    assert set(needed_files(pipeline_files(), catalogue_entry("sd").components)) == EXPECTED


@pytest.mark.parametrize(
    ("names", "index"),
    [
        (
            ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"],
            "model.safetensors.index.fp16.json",
        ),
        (
            ["model-00001-of-00002.fp16.safetensors", "model-00002-of-00002.fp16.safetensors"],
            "model.safetensors.index.fp16.json",
        ),
    ],
)
def test_the_chosen_shards_come_with_their_own_index(names: list[str], index: str) -> None:
    plain = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    there = [*plain, *names, "model.safetensors.index.json", index, "config.json"]
    assert needed_files(there, ("",)) == sorted([*names, index, "config.json"])


def test_what_is_missing_is_named() -> None:
    names = set(pipeline_files())
    assert problems(names, catalogue_entry("sd").components) == []
    lost = names - {"unet/config.json", "vae/diffusion_pytorch_model.safetensors"}
    lost -= {"tokenizer/vocab.json", "tokenizer/merges.txt"}
    assert problems(lost, catalogue_entry("sd").components) == [
        "unet: config.json is absent",
        "vae: only pickles (diffusion_pytorch_model.bin)",
        "tokenizer: absent",
    ]
    shard = ["config.json", "model-00001-of-00003.safetensors"]
    assert problems(shard, ("",)) == ["the folder: 1 of 3 shards"]


def test_a_component_that_the_pipeline_does_without_is_not_missed(
    hub: FakeHub, cache: Path
) -> None:
    files = {n.replace("unet/", "transformer/"): c for n, c in pipeline_files().items()}
    files |= {n.replace("oder/", "oder_2/"): c for n, c in files.items() if "encoder/" in n}
    files |= {n.replace("izer/", "izer_2/"): c for n, c in files.items() if "izer/" in n}
    index = json.loads(files["model_index.json"])
    for model_id, left_out in zip(
        catalogue_entry("sd3").ids, ([None, None], ["library", "T5"]), strict=True
    ):
        index |= dict.fromkeys(("text_encoder_3", "tokenizer_3"), left_out)
        hub.repositories[model_id] = Repository(
            files | {"model_index.json": json.dumps(index).encode()}
        )
    complete, incomplete = catalogue_entry("sd3").ids
    assert locate(complete, "sd3").is_dir()
    with pytest.raises(ModelError, match="text_encoder_3: absent; tokenizer_3: absent"):
        locate(incomplete, "sd3")


def test_every_entry_is_complete() -> None:
    for entry in ENTRIES:
        assert entry.licence
        assert entry.note.endswith(".")
        assert 0 < entry.size_mb
        assert all(model_id.count("/") == 1 for model_id in entry.ids + entry.former_ids)
        assert entry.marker == ("config.json" if entry.role == "critic" else "model_index.json")
    ids = [model_id for entry in ENTRIES for model_id in entry.ids + entry.former_ids]
    assert len(ids) == len(set(ids))
    assert all(entry_with_id(model_id) is not None for model_id in ids)


def test_the_embedded_sizes_are_those_of_the_catalogue() -> None:
    for name in ("mini", "mini-critic"):
        folder = embedded_weights(catalogue_entry(name).role)
        n_bytes = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        assert n_bytes / 1e6 == pytest.approx(catalogue_entry(name).size_mb, rel=0.2)


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="'sd9'.*mvdream, sd15, sd, sdxl, sd3"):
        locate(None, "sd9")


def test_a_local_folder_wins(tmp_path: Path, hub: FakeHub, cache: Path) -> None:
    folder = write(tmp_path / "mine", pipeline_files())
    assert locate(str(folder), "sd") == folder
    assert hub.requests == []


def test_a_folder_with_pickles_only_is_refused_by_name(tmp_path: Path) -> None:
    files = {n: c for n, c in pipeline_files().items() if not n.startswith("unet/diffusion")}
    folder = write(tmp_path / "mine", files | {"unet/diffusion_pytorch_model.bin": b"pickle"})
    with pytest.raises(ModelError, match=r"mine.*unet: only pickles \(diffusion_pytorch_model.bin"):
        locate(str(folder), "sd")


def test_a_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v1.ckpt").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="v1.ckpt is a file"):
        locate(str(tmp_path / "v1.ckpt"), "sd")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no .safetensors file"):
        locate(str(tmp_path / "empty"), "sd")


def test_embedded_models_need_neither_hub_nor_cache() -> None:
    assert locate(None, "mini", offline=True) == embedded_weights("prior")
    assert locate(None, "mini-critic", offline=True) == embedded_weights("critic")


def test_embedded_weights_that_are_lost_are_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(models, "files", lambda package: tmp_path)
    with pytest.raises(MissingDependencyError, match="prior is missing"):
        locate(None, "mini")


def test_ids_are_tried_in_order_and_the_second_is_fetched(hub: FakeHub, cache: Path) -> None:
    hub.repositories[SECOND] = Repository(pipeline_files())
    announced: list[str] = []
    folder = locate(None, "sd", announce=announced.append)
    assert set(local_files(folder)) == EXPECTED
    assert folder.is_relative_to(cache)
    assert (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").read_bytes() == WEIGHTS
    assert announced == [f"fetching {SECOND}: {len(EXPECTED)} files, 0 MB"]
    first = next(i for i, request in enumerate(hub.requests) if FIRST in request)
    assert first < next(i for i, request in enumerate(hub.requests) if SECOND in request)
    assert not hub.was_requested(FORMER)


def test_what_is_cached_is_used_without_a_request(hub: FakeHub, cache: Path) -> None:
    hub.repositories[SECOND] = Repository(pipeline_files())
    fetched = locate(None, "sd")
    hub.requests.clear()
    assert locate(None, "sd") == fetched
    assert locate(None, "sd", offline=True) == fetched
    assert locate(SECOND, "sd") == fetched
    assert hub.requests == []


def test_a_removed_id_is_still_used_from_the_cache(hub: FakeHub, cache: Path) -> None:
    hub.repositories[FORMER] = Repository(pipeline_files())
    fetched = locate(FORMER, "sd")
    del hub.repositories[FORMER]
    assert locate(None, "sd") == fetched


def test_an_incomplete_copy_in_the_cache_is_completed(hub: FakeHub, cache: Path) -> None:
    hub.repositories[FIRST] = Repository(pipeline_files())
    folder = locate(None, "sd")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"incomplete in the cache \(vae: no .safetensors"):
        locate(None, "sd", offline=True)
    assert locate(None, "sd") == folder
    assert set(local_files(folder)) == EXPECTED


def test_offline_contacts_nobody_and_says_how_to_prepare(hub: FakeHub, cache: Path) -> None:
    hub.repositories[FIRST] = Repository(pipeline_files())
    with pytest.raises(ModelError) as caught:
        locate(None, "sd", offline=True)
    assert hub.requests == []
    message = str(caught.value)
    assert "Offline" in message
    assert "vlm3d-gs models pull sd" in message
    assert "--set prior.model=FOLDER" in message
    assert f"{FORMER} (removed from the hub; not in the cache)" in message


def test_when_all_fail_each_id_has_its_reason(hub: FakeHub, cache: Path) -> None:
    hub.repositories |= {FIRST: Repository(status=401), SECOND: Repository(status=404)}
    with pytest.raises(ModelError) as caught:
        locate(None, "sd")
    message = str(caught.value)
    assert f"{FIRST} (HTTP 401: removed, renamed or private)" in message
    assert f"{SECOND} (HTTP 404: removed, renamed or private)" in message
    assert "a token does not help" in message
    assert "mvdream, sd15, sdxl" in message
    assert "\n" not in message


def test_a_users_own_id_is_not_swapped_but_its_copies_are_named(hub: FakeHub, cache: Path) -> None:
    hub.repositories[FIRST] = Repository(pipeline_files())
    with pytest.raises(
        ModelError, match=f"{FORMER}; no folder has that name.*401.*also at: {FIRST}, {SECOND}"
    ):
        locate(FORMER, "sd")
    assert not hub.was_requested(FIRST)


def test_a_gated_model_says_to_accept_and_log_in(hub: FakeHub, cache: Path) -> None:
    files = pipeline_files()
    files |= {n.replace("unet/", "transformer/"): c for n, c in files.items() if "unet/" in n}
    for model_id in catalogue_entry("sd3").ids:
        hub.repositories[model_id] = Repository(files, gated=True)
    with pytest.raises(ModelError) as caught:
        locate(None, "sd3")
    message = str(caught.value)
    assert f"{catalogue_entry('sd3').ids[0]} (HTTP 403: gated)" in message
    assert f"https://huggingface.co/{catalogue_entry('sd3').ids[1]}" in message
    assert "hf auth login" in message
    assert "a token does not help" not in message


def test_a_repository_of_pickles_is_refused_before_anything_is_fetched(
    hub: FakeHub, cache: Path
) -> None:
    files = {n: c for n, c in pipeline_files().items() if not n.endswith(".safetensors")}
    hub.repositories["someone/pickles"] = Repository(files)
    with pytest.raises(ModelError, match=r"unet: only pickles \(diffusion_pytorch_model.bin\)"):
        locate("someone/pickles", "sd")
    assert not hub.was_requested("/resolve/")


def test_another_layout_is_refused(hub: FakeHub, cache: Path) -> None:
    hub.repositories["MVDream/MVDream"] = Repository({"sd-v2.1-base-4view.pt": b"pickle"})
    with pytest.raises(ModelError, match=r"holds no model_index.json"):
        locate("MVDream/MVDream", "mvdream")


def test_a_critic_is_fetched_from_the_root(hub: FakeHub, cache: Path) -> None:
    entry = catalogue_entry("qwen2.5-vl-7b")
    files = {
        "config.json": b"{}",
        "tokenizer.json": b"{}",
        "model-00001-of-00002.safetensors": WEIGHTS,
        "model-00002-of-00002.safetensors": WEIGHTS,
        "model.safetensors.index.json": b"{}",
    }
    hub.repositories[entry.ids[0]] = Repository(files | {"figures/a.json": b"{}", "x.py": b""})
    folder = locate(None, entry.name)
    assert set(local_files(folder)) == set(files)


def test_a_full_disk_is_noticed_before_the_download(hub: FakeHub, cache: Path) -> None:
    large = {"unet/diffusion_pytorch_model.fp16.safetensors": 10**18}
    hub.repositories[FIRST] = Repository(pipeline_files(), announced=large)
    with pytest.raises(ModelError, match=rf"{FIRST} needs 1000000000.0 GB.*GB free.*HF_HOME"):
        locate(None, "sd")
    assert not hub.was_requested("/resolve/")


def test_sizes_of_files_that_are_not_fetched_do_not_count(hub: FakeHub, cache: Path) -> None:
    large = {"unet/diffusion_pytorch_model.safetensors": 10**18}
    hub.repositories[FIRST] = Repository(pipeline_files(), announced=large)
    assert locate(None, "sd").is_dir()


def test_a_hub_that_does_not_answer_is_contacted_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        set_endpoint(monkeypatch, f"http://127.0.0.1:{closed.getsockname()[1]}")
    with pytest.raises(ModelError) as caught:
        locate(None, "sd")
    message = str(caught.value)
    assert f"{FIRST} (no answer from the hub: ConnectError" in message
    assert f"{SECOND} (not in the cache)" in message
    assert "vlm3d-gs models pull sd" in message


def test_a_hub_that_is_out_of_order_is_reported(hub: FakeHub, cache: Path) -> None:
    hub.repositories[FIRST] = Repository(status=503)
    with pytest.raises(ModelError, match="HTTP 503: the hub is out of order"):
        locate(None, "sd")


def test_the_hub_librarys_offline_switch_is_named(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids"):
        locate(None, "sd")


@pytest.mark.parametrize("model", ["./nowhere", "/no/such/folder", "one", "a/b/c", "a b/c"])
def test_what_is_neither_folder_nor_id_is_refused(model: str, cache: Path) -> None:
    with pytest.raises(ModelError, match="neither a folder that exists, nor a hub id"):
        locate(model, "sd")


def test_a_catalogue_name_may_stand_for_the_model(hub: FakeHub, cache: Path) -> None:
    hub.repositories[FIRST] = Repository(pipeline_files())
    assert locate("sd", "sd15").is_relative_to(cache)
    assert hub.was_requested(FIRST)


def test_pull_takes_names_known_ids_and_others_with_a_family(hub: FakeHub, cache: Path) -> None:
    hub.repositories |= {
        FIRST: Repository(pipeline_files()),
        "me/tuned": Repository(pipeline_files()),
    }
    by_name = pull("sd")
    assert pull(FIRST) == by_name
    assert pull("me/tuned", "sd") != by_name
    with pytest.raises(ModelError, match="'me/tuned' is not in the catalogue.*--family"):
        pull("me/tuned")


def test_the_listing_says_what_is_here(hub: FakeHub, cache: Path) -> None:
    before = listing()
    for name in CATALOGUE:
        assert f"\n{name} " in before
    assert before.count("-> not on this machine") == len(CATALOGUE) - 2
    hub.repositories[SECOND] = Repository(pipeline_files())
    folder = pull("sd")
    assert f"-> {folder}" in listing()
    assert f"{FORMER} (removed; used if cached)" in before
    assert "Stability AI Community, login needed" in before


def test_the_embedded_weights_pass_the_check(cache: Path) -> None:
    lines = list(check(None))
    assert [line.split(":")[0] for line in lines] == ["ok  mini", "ok  mini-critic"]


def test_all_are_checked_before_the_first_broken_one_is_reported(hub: FakeHub, cache: Path) -> None:
    hub.repositories[FIRST] = Repository(pipeline_files())
    folder = pull("sd")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(WEIGHTS[:-1])
    lines = check(None)
    assert [next(lines)[:8], next(lines)[:8]] == ["ok  mini", "ok  mini"]
    with pytest.raises(ModelError, match="^sd: Weights in .* are damaged"):
        next(lines)
