"""From prompts to the embeddings that the denoiser of a pipeline reads, with an optional cache on disk.

Each family joins the outputs of its text encoders in its own way, which follows from the components of the pipeline.
The encoders are loaded one after another and freed, since they may be larger than the denoiser and are not needed
again.

The tests compare with `encode_prompt` of diffusers' pipelines (0.42). It is not used here because it holds all encoders
in memory at once (for SD3 on a GPU about 12.8 GB instead of the 9.5 of T5 alone) and, for SD3 without T5, the
transformer as well. Its signature and results differ between families, so a new one would need code here in any case.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.precision import fast_dtype
from vlm3d_gs.prior.denoiser import TextEmbedding
from vlm3d_gs.prior.loading.folder import (
    has_component,
    network_component,
    read_components,
    read_settings,
    require_complete,
    unreadable,
    weights_variant,
)
from vlm3d_gs.prior.loading.pipeline import quiet_loading

ENCODERS = {
    "CLIPTextModel": CLIPTextModel,
    "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
    "T5EncoderModel": T5EncoderModel,
}
T5_TOKENS = 256
"""Length to which SD3's third encoder pads its texts, as the published pipeline does by default."""
CACHE_FORMAT = "1"
"""Part of every cached file name; a new number invalidates old files."""


@dataclass(frozen=True)
class _Encoded:
    """The outputs of one encoder for K texts, float32 on the CPU."""

    last: Tensor
    """[K, L, W] output of the last layer, after its normalisation."""
    penultimate: Tensor
    """[K, L, W] output of the layer before the last, not normalised."""
    pooled: Tensor | None
    """[K, P] projected output at the end token; None for encoders without a projection."""


def embed_texts(
    folder: Path, texts: Sequence[str], device: torch.device, *, cache: Path | None = None
) -> TextEmbedding:
    """Embed texts with the text encoders of a pipeline folder.

    SD 1.5, SD 2.1 and multi-view models derived from them use the last layer of one CLIP (the published file of SD 2.1
    omits the last layer of the tower, so this is the one that its authors call penultimate). SDXL joins the penultimate
    layers of two CLIPs along the width and uses the pooled text of the second; if the pipeline is configured so, an
    empty text is all zeros. SD3 joins two CLIPs in the same way, pads them to the width of T5, appends the tokens of T5
    (zeros without T5) and joins both pooled texts.

    Args:
        folder: pipeline in diffusers' layout.
        texts: K sentences; each is truncated to the length of the encoder, as in training.
        device: where the encoders run and where the result goes.
        cache: folder of earlier embeddings, created if absent; a damaged file is replaced. None disables the cache.

    Returns:
        K embedded texts, float32, in the order of `texts`.

    Raises:
        ConfigError: the folder is no pipeline, has no known encoder, or only pickles.
        InputFileError: a file cannot be read.

    Source: Rombach et al. 2022 (arXiv 2112.10752); Podell et al. 2023 (SDXL, arXiv 2307.01952), section 2.1; Esser et
    al. 2024 (SD3, arXiv 2403.03206), section 4. Checked against diffusers' `encode_prompt`.
    """
    components = read_components(folder)
    identity = _identity(folder, components, device)
    names = {text: _cache_name(identity, text) for text in dict.fromkeys(texts)}

    rows: dict[str, TextEmbedding] = {}
    if cache is not None:
        cached = {text: _read_cached(cache / name) for text, name in names.items()}
        rows = {text: row for text, row in cached.items() if row is not None}

    missing = [text for text in names if text not in rows]
    if missing:
        embedded = _embed(folder, components, missing, device)
        rows |= {text: embedded.rows([index]) for index, text in enumerate(missing)}
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        for text in missing:
            _write_cached(cache / names[text], rows[text])

    pooled = [rows[text].pooled for text in texts]
    joined = TextEmbedding(
        torch.cat([rows[text].tokens for text in texts]),
        None if None in pooled else torch.cat([row for row in pooled if row is not None]),
    )
    return joined.to(device)


@torch.no_grad()
def _embed(
    folder: Path, components: dict[str, Any], texts: list[str], device: torch.device
) -> TextEmbedding:
    """Run the encoders; not in inference mode, since the backward pass of a LoRA may save the embeddings."""
    if not has_component(components, "text_encoder"):
        raise ConfigError(
            f"{folder} has no text_encoder in model_index.json. Give a text-to-image pipeline (for SDXL the base, "
            "not the refiner)."
        )
    first = _encode(folder, components, "", texts, device)
    if not has_component(components, "text_encoder_2"):
        return TextEmbedding(first.last)

    second = _encode(folder, components, "_2", texts, device)
    tokens = torch.cat([first.penultimate, second.penultimate], dim=-1)
    if second.pooled is None:
        raise ConfigError(
            f"text_encoder_2 in {folder} must be a CLIPTextModelWithProjection, got "
            f"{components['text_encoder_2'][1]}. Choose a pipeline with such an encoder."
        )
    if network_component(components, folder) == "unet":
        if components.get("force_zeros_for_empty_prompt", True):
            nonempty = torch.tensor([text != "" for text in texts])
            return TextEmbedding(
                tokens * nonempty[:, None, None], second.pooled * nonempty[:, None]
            )
        return TextEmbedding(tokens, second.pooled)

    # SD3.
    if first.pooled is None:
        raise ConfigError(
            f"text_encoder in {folder} must be a CLIPTextModelWithProjection, got "
            f"{components['text_encoder'][1]}. Choose a pipeline with such an encoder."
        )
    t5_tokens = _encode_t5(folder, components, texts, device)
    padded = F.pad(tokens, (0, t5_tokens.shape[-1] - tokens.shape[-1]))
    return TextEmbedding(
        torch.cat([padded, t5_tokens], dim=1), torch.cat([first.pooled, second.pooled], dim=-1)
    )


def _encode(
    folder: Path, components: dict[str, Any], suffix: str, texts: list[str], device: torch.device
) -> _Encoded:
    """Run one CLIP, in float32."""
    tokenizer = _load_tokenizer(folder, f"tokenizer{suffix}")
    encoder = _load_encoder(folder, components, f"text_encoder{suffix}", torch.float32).to(device)

    # One text at a time, so that an embedding does not depend on the texts beside it.
    outputs = []
    for text in texts:
        ids = _token_ids(tokenizer, text, tokenizer.model_max_length)
        outputs.append(encoder(ids.to(device), output_hidden_states=True))

    pooled = None
    if isinstance(encoder, CLIPTextModelWithProjection):
        pooled = torch.cat([output.text_embeds for output in outputs]).float().cpu()
    return _Encoded(
        torch.cat([output.last_hidden_state for output in outputs]).float().cpu(),
        torch.cat([output.hidden_states[-2] for output in outputs]).float().cpu(),
        pooled,
    )


def _encode_t5(
    folder: Path, components: dict[str, Any], texts: list[str], device: torch.device
) -> Tensor:
    """Return the [K, 256, W] tokens of SD3's third encoder, zeros if the pipeline has none.

    T5 has 4.7 billion parameters, so on CUDA it runs in half precision.
    """
    if not has_component(components, "text_encoder_3"):
        width = read_settings(folder / "transformer" / "config.json")["joint_attention_dim"]
        return torch.zeros(len(texts), T5_TOKENS, int(width))

    tokenizer = _load_tokenizer(folder, "tokenizer_3")
    dtype = (fast_dtype(device) if device.type == "cuda" else None) or torch.float32
    encoder = _load_encoder(folder, components, "text_encoder_3", dtype).to(device)
    rows = [
        encoder(_token_ids(tokenizer, text, T5_TOKENS).to(device)).last_hidden_state
        for text in texts
    ]
    return torch.cat(rows).float().cpu()


def load_text_encoder(folder: Path) -> tuple[PreTrainedTokenizerBase, Any]:
    """Return tokenizer and text encoder of a pipeline that has one, in float32 on the CPU."""
    components = read_components(folder)
    tokenizer = _load_tokenizer(folder, "tokenizer")
    return tokenizer, _load_encoder(folder, components, "text_encoder", torch.float32)


def _token_ids(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> Tensor:
    """Return [1, length] token ids, padded or truncated."""
    encoded = tokenizer(
        text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids


def _load_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    if not (folder / name).is_dir():
        raise ConfigError(f"{folder / name} is missing: fetch the model's files again.")
    try:
        return AutoTokenizer.from_pretrained(folder / name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputFileError(unreadable(folder / name, error)) from error


def _load_encoder(folder: Path, components: dict[str, Any], name: str, dtype: torch.dtype) -> Any:
    class_name = components[name][1]
    if class_name not in ENCODERS:
        raise ConfigError(
            f"The text encoder {class_name!r} in {folder / name} is not supported. Allowed: "
            f"{', '.join(ENCODERS)}. Choose a pipeline with such encoders."
        )

    read_settings(folder / name / "config.json")  # for its own message where the file is missing
    variant = weights_variant(folder / name, "model")
    try:
        with quiet_loading():
            encoder, report = ENCODERS[class_name].from_pretrained(
                folder / name,
                dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise InputFileError(unreadable(folder / name, error)) from error

    require_complete(folder / name, report["missing_keys"])
    return encoder.requires_grad_(False).eval()


def _identity(folder: Path, components: dict[str, Any], device: torch.device) -> str:
    """Return what identifies the encoders: path, components, and size and time of each of their files."""
    used = sorted(
        path
        for name in components
        if name.startswith(("text_encoder", "tokenizer")) and (folder / name).is_dir()
        for path in (folder / name).rglob("*")
        if path.is_file()
    )
    files = [
        [path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns]
        for path in used
    ]
    return json.dumps([CACHE_FORMAT, str(folder.resolve()), components, files, device.type])


def _cache_name(identity: str, text: str) -> str:
    """Return the file name of the cached embedding of a text."""
    digest = hashlib.sha256(json.dumps([identity, text]).encode()).hexdigest()
    return f"{digest[:40]}.safetensors"


def _read_cached(path: Path) -> TextEmbedding | None:
    """Return one embedded text, or None if the file is absent or damaged."""
    try:
        stored = load_file(path)
        return TextEmbedding(stored["tokens"], stored.get("pooled"))
    except (OSError, KeyError, SafetensorError):
        return None


def _write_cached(path: Path, row: TextEmbedding) -> None:
    tensors = {"tokens": row.tokens.contiguous()}
    if row.pooled is not None:
        tensors["pooled"] = row.pooled.contiguous()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
