"""Embedded prompts, against diffusers' `encode_prompt`, and the cache on disk."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import (
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from transformers import CLIPTextModel

from pipelines import clip_config, tiny_mvdream, tiny_sd3, tiny_sd15, tiny_sd21, tiny_sdxl
from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.prior.loading.text import embed_texts

CPU = torch.device("cpu")
PROMPT = "a corgi wearing a top hat"
NEGATIVE = "ugly, blurry"
TEXTS = [NEGATIVE, PROMPT]
EXACT = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def sd15(root: Path) -> Path:
    return tiny_sd15(root / "sd15")


@pytest.fixture(scope="module")
def sd21(root: Path) -> Path:
    return tiny_sd21(root / "sd21")


@pytest.fixture(scope="module")
def sdxl(root: Path) -> Path:
    return tiny_sdxl(root / "sdxl")


@pytest.fixture
def copy(sd15: Path, tmp_path: Path) -> Path:
    """A pipeline that a test may damage."""
    return Path(shutil.copytree(sd15, tmp_path / "sd15"))


@pytest.mark.parametrize("family", ["sd15", "sd21"])
def test_one_clip_is_read_as_diffusers_reads_it(
    family: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(family)
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    text, uncond = pipe.encode_prompt(PROMPT, CPU, 1, True, negative_prompt=NEGATIVE)
    found = embed_texts(folder, TEXTS, CPU)
    torch.testing.assert_close(found.tokens, torch.cat([uncond, text]), **EXACT)
    assert found.pooled is None


def test_the_layer_that_sd21_leaves_out_makes_its_last_one_the_penultimate() -> None:
    """SD 2.1 has 23 of OpenCLIP's 24 layers, so its last output, after the final norm, is layer 23's."""
    torch.manual_seed(0)
    whole = CLIPTextModel(clip_config(32, n_layers=3)).eval()
    cut = CLIPTextModel(clip_config(32, n_layers=2)).eval()
    cut.load_state_dict(whole.state_dict(), strict=False)
    ids = torch.tensor([[512, 5, 6, 513]])
    with torch.inference_mode():
        states = whole(ids, output_hidden_states=True).hidden_states
        torch.testing.assert_close(
            cut(ids).last_hidden_state, whole.final_layer_norm(states[-2]), **EXACT
        )


@pytest.mark.parametrize("negative", [NEGATIVE, None])
def test_sdxl_joins_two_clips_as_diffusers_does(sdxl: Path, negative: str | None) -> None:
    """No negative prompt is all zeros there, as in training."""
    pipe = StableDiffusionXLPipeline.from_pretrained(sdxl, local_files_only=True)
    text, uncond, pooled, pooled_uncond = pipe.encode_prompt(
        PROMPT, device=CPU, negative_prompt=negative
    )
    found = embed_texts(sdxl, [negative or "", PROMPT], CPU)
    torch.testing.assert_close(found.tokens, torch.cat([uncond, text]), **EXACT)
    torch.testing.assert_close(found.pooled, torch.cat([pooled_uncond, pooled]), **EXACT)
    assert bool((found.tokens[0] == 0).all()) == (negative is None)


def test_sdxl_encodes_an_empty_text_where_the_pipeline_says_so(sdxl: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sdxl, tmp_path / "sdxl"))
    path = folder / "model_index.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"force_zeros_for_empty_prompt": False})
    )
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    _, uncond, _, pooled_uncond = pipe.encode_prompt(PROMPT, device=CPU)
    found = embed_texts(folder, [""], CPU)
    torch.testing.assert_close(found.tokens, uncond, **EXACT)
    torch.testing.assert_close(found.pooled, pooled_uncond, **EXACT)


@pytest.mark.parametrize("with_t5", [True, False])
def test_sd3_joins_three_encoders_as_diffusers_does(with_t5: bool, tmp_path: Path) -> None:
    folder = tiny_sd3(tmp_path / "sd3", with_t5=with_t5)
    absent = {} if with_t5 else {"text_encoder_3": None, "tokenizer_3": None}
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True, **absent)
    text, uncond, pooled, pooled_uncond = pipe.encode_prompt(
        PROMPT, None, None, device=CPU, negative_prompt=NEGATIVE
    )
    found = embed_texts(folder, TEXTS, CPU)
    torch.testing.assert_close(found.tokens, torch.cat([uncond, text]), **EXACT)
    torch.testing.assert_close(found.pooled, torch.cat([pooled_uncond, pooled]), **EXACT)
    assert bool((found.tokens[:, 77:] == 0).all()) != with_t5


def test_the_embedded_prior_pads_to_its_own_length() -> None:
    """Its weights are stored in half precision and used in float32."""
    folder = embedded_weights("prior")
    pipe = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True
    )
    text, uncond = pipe.encode_prompt("a red cube", CPU, 1, True)
    found = embed_texts(folder, ["", "a red cube"], CPU)
    assert found.tokens.shape == (2, 16, 192)
    torch.testing.assert_close(found.tokens, torch.cat([uncond, text]), **EXACT)


def test_the_published_multiview_bundle_is_read(shared_fixtures: Path, tmp_path: Path) -> None:
    """Its tokenizer has vocab.json and merges.txt only, its UNet a class that no library knows."""
    folder = tiny_mvdream(tmp_path / "mvdream", shared_fixtures / "mvdream_tiny" / "unet")
    found = embed_texts(folder, ["", PROMPT], CPU)
    assert found.tokens.shape == (2, 77, 64)
    assert not torch.equal(found.tokens[0], found.tokens[1])


def test_texts_keep_their_order_and_may_repeat(sd15: Path) -> None:
    found = embed_texts(sd15, [PROMPT, "", PROMPT], CPU).tokens
    alone = embed_texts(sd15, ["", PROMPT], CPU).tokens
    assert torch.equal(found, alone[[1, 0, 1]])
    assert not found.is_inference()
    assert not found.requires_grad


def test_long_texts_are_cut(sd15: Path) -> None:
    long = "abc " * 100
    found = embed_texts(sd15, [long, long + "more"], CPU).tokens
    assert found.shape == (2, 77, 32)
    assert torch.equal(found[0], found[1])


def scramble(path: Path) -> None:
    """Make a file unreadable without changing its size or time."""
    seen = path.stat()
    path.write_bytes(b"\xff" * seen.st_size)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def test_cached_texts_need_no_encoder(copy: Path, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    first = embed_texts(copy, TEXTS, CPU, cache=cache)
    scramble(copy / "text_encoder" / "model.safetensors")
    again = embed_texts(copy, TEXTS[::-1], CPU, cache=cache)
    assert torch.equal(again.tokens, first.tokens[[1, 0]])
    with pytest.raises(InputFileError, match="text_encoder cannot be read"):
        embed_texts(copy, [*TEXTS, "another"], CPU, cache=cache)


def test_pooled_texts_are_cached_too(sdxl: Path, tmp_path: Path) -> None:
    first = embed_texts(sdxl, TEXTS, CPU, cache=tmp_path)
    again = embed_texts(sdxl, TEXTS, CPU, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert torch.equal(first.tokens, again.tokens)
    torch.testing.assert_close(first.pooled, again.pooled, atol=0.0, rtol=0.0)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 4000])
def test_a_damaged_cache_file_is_made_anew(sd15: Path, tmp_path: Path, damage: bytes) -> None:
    first = embed_texts(sd15, [PROMPT], CPU, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage)
    assert torch.equal(embed_texts(sd15, [PROMPT], CPU, cache=tmp_path).tokens, first.tokens)
    assert file.read_bytes() == whole


def test_other_weights_do_not_get_cached_embeddings(copy: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = embed_texts(copy, [PROMPT], CPU, cache=cache)
    torch.manual_seed(99)
    CLIPTextModel(clip_config(32)).save_pretrained(copy / "text_encoder")
    second = embed_texts(copy, [PROMPT], CPU, cache=cache)
    assert not torch.allclose(first.tokens, second.tokens)
    assert len(list(cache.iterdir())) == 2


def test_pickled_and_unknown_encoders_are_refused(copy: Path) -> None:
    path = copy / "text_encoder" / "model.safetensors"
    path.rename(copy / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"only as pytorch_model.bin, a pickle"):
        embed_texts(copy, [PROMPT], CPU)
    index = copy / "model_index.json"
    parts = json.loads(index.read_text())
    parts["text_encoder"] = ["transformers", "UMT5EncoderModel"]
    index.write_text(json.dumps(parts))
    with pytest.raises(ConfigError, match="'UMT5EncoderModel' .* Allowed: CLIPTextModel, "):
        embed_texts(copy, [PROMPT], CPU)


def test_a_pipeline_without_encoder_or_tokenizer_is_refused(copy: Path) -> None:
    shutil.rmtree(copy / "tokenizer")
    with pytest.raises(ConfigError, match="tokenizer is missing"):
        embed_texts(copy, [PROMPT], CPU)
    index = copy / "model_index.json"
    parts = json.loads(index.read_text()) | {"text_encoder": [None, None]}
    index.write_text(json.dumps(parts))
    with pytest.raises(ConfigError, match="has no text_encoder"):
        embed_texts(copy, [PROMPT], CPU)
