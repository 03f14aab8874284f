"""Settings of the critic: what is asked, how the answers pull, and who watches them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vlm3d_gs.config.bounds import check_at_least, check_schedule, check_within
from vlm3d_gs.config.schedules import Schedule
from vlm3d_gs.core.errors import ConfigError

CriticFamily = Literal[
    "mini",
    "qwen2-vl-2b",
    "qwen2.5-vl-3b",
    "qwen2.5-vl-7b",
    "qwen3-vl-2b",
    "qwen3-vl-4b",
    "server",
]
"""`mini` is embedded; the names of `vlm3d-gs models list`; `server` speaks OpenAI's protocol and gives no gradient."""
FIRST_HALF = Schedule("linear", ((0.0, 0.3), (0.5, 0.15), (0.5001, 0.0), (1.0, 0.0)))
"""Weight of a critic beside a prior that draws the views of a group together. The layout is settled by half of the run
and later answers change little (docs/log/large-models.md); the released VLM3D also asks in the first half only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionConfig:
    """What the critic is asked about a prompt."""

    checks: Literal["templates", "joint", "model"] = "templates"
    """templates: content, geometry, and each relation, count and attribute that is found in the prompt; joint: the one
    question of the paper, for content and geometry at once; model: templates, and what the critic itself lists."""
    semantic_weight: float = 1.0
    """Weight of the questions about the content, shared by them, 0 or more."""
    geometric_weight: float = 1.0
    """Weight of the question about sound, consistent geometry, 0 or more."""
    asks: tuple[str, ...] = ()
    """Further Yes/No questions, weight 1 each, or what follows a last `@`: "Is it shiny? @ 0.5"."""
    drop: tuple[str, ...] = ()
    """Names of questions that are not asked (`vlm3d-gs questions` lists them)."""
    most: int = 12
    """Questions at most; templates come first."""

    def __post_init__(self) -> None:
        check_within("critic.questions.semantic_weight", self.semantic_weight, 0.0, 1e6)
        check_within("critic.questions.geometric_weight", self.geometric_weight, 0.0, 1e6)
        check_within("critic.questions.most", self.most, 1, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Random changes of the pictures before the critic sees them, alike in all views of a group.

    A pull that depends on the exact pixels averages out; one that is about the scene stays.
    """

    background: bool = True
    """Show the scene before a random colour, another one at each question."""
    crop: float = 0.0
    """Largest share of the side that is cut away or added around, 0 to 0.5."""
    color: float = 0.0
    """Largest change of contrast, 0 to 0.5."""
    resolution: float = 1.0
    """Smallest scale that pictures are shrunk to before they are enlarged again, above 0 to 1."""

    def __post_init__(self) -> None:
        check_within("critic.augment.crop", self.crop, 0.0, 0.5)
        check_within("critic.augment.color", self.color, 0.0, 0.5)
        check_within("critic.augment.resolution", self.resolution, 0.05, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchConfig:
    """A second reading of the scene that the run is not optimised for: other words, other views, another resolution."""

    enabled: bool = True
    """Score the scene now and then, and tell when reward and score part."""
    every: float = 0.2
    """Fraction of the run between readings, above 0 to 1."""
    margin: float = 1.0
    """Log-odds by which the best reading must beat the last one for the two to have parted."""
    family: CriticFamily | None = None
    """Another model as judge; None is the critic itself, asked in other words."""
    model: str | None = None
    """Folder or hub id of the judge's weights."""

    def __post_init__(self) -> None:
        check_within("critic.watch.every", self.every, 0.01, 1.0)
        check_within("critic.watch.margin", self.margin, 0.0, 1e3)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """An OpenAI-compatible server, such as a local vLLM, as a critic without gradients."""

    url: str = "http://127.0.0.1:8000/v1"
    """Address up to and including /v1."""
    model: str = ""
    """Name of the model as the server knows it."""
    key_file: str | None = None
    """File that holds the server's key; None for none. Keys are never written to a run folder."""
    timeout_s: float = 60.0
    """Seconds to wait for an answer."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(
                f"critic.server.url must begin with http:// or https://, got {self.url!r}. "
                "E.g. http://127.0.0.1:8000/v1."
            )
        check_within("critic.server.timeout_s", self.timeout_s, 0.1, 3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticConfig:
    """The vision-language model that answers Yes or No about the renders."""

    enabled: bool = True
    """Off is distillation alone."""
    family: CriticFamily = "mini"
    """Which model; `mini` is the small one inside the package."""
    model: str | None = None
    """Folder or hub id with other weights of the same kind; None is the family's own."""
    mode: Literal["gradient", "best-of-n", "pairwise", "both"] = "both"
    """gradient: the reward is differentiated; best-of-n: noises of the prior are weighted by the reward of what they
    lead to; pairwise: the better of two noises pulls and the worse pushes, both without gradients; both: gradient, and
    best-of-n for the layout, which gradients cannot mirror once it stands."""
    n_noises: int = 3
    """Noises that best-of-n compares, 2 or more."""
    look_ahead: int | None = None
    """Denoising steps by which a noise is followed to the pictures that are compared, 1 or more; None is 1 for a prior
    that draws the views of a group together, and 4 for one that draws each alone."""
    select_until: float = 0.3
    """Fraction of the run after which noises are compared no more, 0 to 1."""
    every: int = 2
    """Ask at every k-th step, 1 or more; the gradient is scaled by k to mean the same over a
    run."""
    reuse: bool = False
    """Between questions, go on with the last gradient on the Gaussians instead of scaling it by k."""
    weight: Schedule = FIRST_HALF
    """Strength of the reward, 0 or more; see `balance`."""
    balance: Literal["ratio", "raw"] = "ratio"
    """ratio: the weight is the norm of the critic's gradient on the renders against the prior's, so that it means the
    same for every prior; raw: the weight multiplies the reward."""
    reward: Literal["logit", "logsigmoid", "probability"] = "logsigmoid"
    """Shape of the reward over the Yes-against-No log-odds; logsigmoid and probability are bounded
    in gradient."""
    clip: float = 4.0
    """Largest gradient of a pixel against the root mean square over all pixels; 0 is no limit."""
    size_px: Schedule | None = None
    """Side of the pictures that the critic sees, over the run; None is as they are rendered."""
    layout: Literal["images", "grid"] = "images"
    """One image a view, each named in the text, or one image with all views in a grid."""
    questions: QuestionConfig = field(default_factory=QuestionConfig)
    """What is asked."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Changes of the pictures against adversarial noise."""
    watch: WatchConfig = field(default_factory=WatchConfig)
    """Held-out readings."""
    server: ServerConfig = field(default_factory=ServerConfig)
    """For the family `server`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the weights; auto is bfloat16 where the device multiplies it faster, but float32 for `mini` on a GPU."""
    quantize: Literal["none", "8bit", "4bit"] = "none"
    """Smaller weights through bitsandbytes, on a GPU."""
    checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, more time."""
    graphs: bool = False
    """Replay looks as CUDA graphs, on a GPU only; not tried on one yet."""

    def __post_init__(self) -> None:
        check_at_least("critic.every", self.every, 1)
        check_at_least("critic.n_noises", self.n_noises, 2)
        if self.look_ahead is not None:
            check_within("critic.look_ahead", self.look_ahead, 1, 100)
        check_within("critic.select_until", self.select_until, 0.0, 1.0)
        check_schedule("critic.weight", self.weight, 0.0, 1e6)
        check_within("critic.clip", self.clip, 0.0, 1e6)
        if self.size_px is not None:
            check_schedule("critic.size_px", self.size_px, 16, 4096)
        if self.family == "server" and self.mode in ("gradient", "both"):
            raise ConfigError(
                "A server gives no gradients. Set critic.mode to best-of-n or pairwise, "
                "or take a family with weights."
            )
