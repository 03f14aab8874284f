"""Settings of the critic: its questions, how its answers become a gradient, and the watch over them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import urlsplit

from vlm3d_gs.config.bounds import Range, check_ranges
from vlm3d_gs.config.schedules import Schedule, linear
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
ViewNames = Literal["four", "eight", "degrees", "none"]
FIRST_HALF = Schedule("linear", ((0.0, 0.3), (0.5, 0.15), (0.5001, 0.0), (1.0, 0.0)))
"""Weight of a critic beside a prior that draws the views of a group together. The layout is settled by half of the run
and later answers change little (docs/log/large-models.md); the released VLM3D also asks in the first half only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionConfig:
    """What the critic is asked about a prompt."""

    checks: Literal["templates", "joint", "model"] = "templates"
    """templates: questions about content and geometry, and about each relation, count and attribute found in the
    prompt; joint: the single question of the paper, about content and geometry at once; model: templates, and questions
    that the critic itself lists."""
    joint_text: str | None = None
    """Another wording of the joint question; {prompt} in it stands for the prompt. The released VLM3D's is in its
    guidance code, prompt type 2."""
    semantic_weight: Annotated[float, Range(0.0, 1e6)] = 1.0
    """Weight that the questions about the content share."""
    geometric_weight: Annotated[float, Range(0.0, 1e6)] = 1.0
    """Weight of the question about sound, consistent geometry."""
    asks: tuple[str, ...] = ()
    """More Yes/No questions, of weight 1, or of the weight after a last `@`: "Is it shiny? @ 0.5"."""
    drop: tuple[str, ...] = ()
    """Names of questions to leave out (`vlm3d-gs questions` lists them)."""
    most: Annotated[int, Range(1, 64)] = 12
    """Largest number of questions; templates come first."""

    def __post_init__(self) -> None:
        check_ranges(self, "critic.questions")
        if self.joint_text is not None and (
            self.checks != "joint" or "{prompt}" not in self.joint_text
        ):
            raise ConfigError(
                f"critic.questions.joint_text begins with {self.joint_text[:40]!r}; it needs {{prompt}} in it, and "
                f"critic.questions.checks=joint, not {self.checks}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Random changes of the pictures before the critic sees them, the same in all views of a group.

    Gradients that depend on exact pixels average out; those that come from the scene remain.
    """

    background: bool = True
    """Render the scene on a random colour, a new one each time that a view group is shown."""
    crop: Annotated[float, Range(0.0, 0.5)] = 0.0
    """Largest fraction of the side that is cropped or padded."""
    color: Annotated[float, Range(0.0, 0.5)] = 0.0
    """Largest change of contrast."""
    resolution: Annotated[float, Range(0.05, 1.0)] = 1.0
    """Smallest scale to which pictures are shrunk before they are enlarged again."""

    def __post_init__(self) -> None:
        check_ranges(self, "critic.augment")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchConfig:
    """A second reading of the scene that the run does not optimise: other words, other views, another resolution."""

    enabled: bool = True
    """Score the scene from time to time, and report when reward and held-out score diverge."""
    every: Annotated[float, Range(0.01, 1.0)] = 0.2
    """Fraction of the run between readings."""
    margin: Annotated[float, Range(0.0, 1e3)] = 1.0
    """Log-odds by which the best reading must exceed the last one for the two to have diverged."""
    family: CriticFamily | None = None
    """Another model as judge; none is the critic itself, with the questions in other words."""
    model: str | None = None
    """Folder or hub id of the judge's weights."""

    def __post_init__(self) -> None:
        check_ranges(self, "critic.watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """An OpenAI-compatible server, such as a local vLLM, as a critic without gradients."""

    url: str = "http://127.0.0.1:8000/v1"
    """Address up to and including /v1, without user name, password or query."""
    model: str = ""
    """Name of the model on the server."""
    key_file: str | None = None
    """File that holds the server's key, if it needs one. Keys are never written to a run folder."""
    timeout_s: Annotated[float, Range(0.1, 3600.0)] = 60.0
    """Longest time of one attempt, from the connection to the last byte of the answer, seconds."""
    connect_timeout_s: Annotated[float, Range(0.1, 3600.0)] = 10.0
    """Longest time to connect, seconds."""
    attempts: Annotated[int, Range(1, 20)] = 3
    """How often a question is asked, if the server is busy or its answer useless, before the look is left out."""
    backoff_s: Annotated[float, Range(0.0, 60.0)] = 1.0
    """Wait before the second attempt, seconds; doubled before each later one. If the server asks for a longer one, that
    counts, up to a minute."""

    def __post_init__(self) -> None:
        _check_address(self.url)
        check_ranges(self, "critic.server")


def _check_address(url: str) -> None:
    """Raise ConfigError unless `url` is the plain address of a server."""
    # What might be a password is not shown.
    if any(mark in url for mark in "@?#"):
        raise ConfigError(
            "critic.server.url must be a plain address without user name, password, query or fragment, since it is "
            "written to the run's folder. Put the key into a file, and set critic.server.key_file to its path."
        )

    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if (
        not sound
        or not url.startswith(("http://", "https://"))
        or not url.isprintable()
        or " " in url
    ):
        raise ConfigError(
            "critic.server.url must begin with http:// or https:// and name a host, and a port from 1 to 65535 if any, "
            f"got {url[:100]!r}. E.g. http://127.0.0.1:8000/v1."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticConfig:
    """The vision-language model that answers Yes or No about the renders."""

    enabled: bool = True
    """Whether a critic is used; off, the run is distillation alone."""
    family: CriticFamily = "mini"
    """Which model; `mini` is the small one inside the package."""
    model: str | None = None
    """Folder or hub id of other weights of the same kind; none takes the family's own."""
    mode: Literal["gradient", "best-of-n", "pairwise", "both"] = "both"
    """gradient: the reward is differentiated; best-of-n: several noises of the prior are weighted by the reward of what
    they lead to; pairwise: the better of two noises attracts and the worse repels, both without gradients of the
    critic; both: gradient, and best-of-n for the layout, which gradients cannot mirror once it is there."""
    n_noises: Annotated[int, Range(2, 64)] = 3
    """Noises that best-of-n compares."""
    look_ahead: Annotated[int | None, Range(1, 100)] = None
    """Denoising steps from a noise to the pictures that are compared; none is 1 for a prior that draws the views of a
    group together, and 4 for one that draws each alone."""
    select_until: Annotated[float, Range(0.0, 1.0)] = 0.3
    """Fraction of the run after which noises are no longer compared."""
    every: Annotated[int, Range(1, 10_000_000)] = 10
    """Ask at every k-th step: for the gradient, which is then scaled by k or repeated (`reuse`), and for the choice
    among noises."""
    reuse: bool = True
    """Between questions, repeat the last gradient on the Gaussians instead of scaling it by k."""
    weight: Annotated[Schedule, Range(0.0, 1e6)] = linear(0.3, 0.1)
    """Strength of the reward; see `balance`."""
    balance: Literal["ratio", "raw"] = "ratio"
    """ratio: the weight is the ratio of the critic's gradient norm on the renders to the prior's, which makes it
    comparable between priors; raw: the weight multiplies the reward."""
    reward: Literal["logit", "logsigmoid", "probability"] = "logsigmoid"
    """Function of the Yes-against-No log-odds; the gradients of logsigmoid and probability are bounded."""
    clip: Annotated[float, Range(0.0, 1e6)] = 4.0
    """Largest gradient of a pixel, as a multiple of the root mean square over all pixels; 0 is no limit."""
    size_px: Annotated[Schedule | None, Range(16, 4096)] = None
    """Side of the pictures that the critic sees, pixels; none is the size of the renders."""
    layout: Literal["images", "grid"] = "images"
    """One image per view, or one image with all views in a grid."""
    view_names: ViewNames = "four"
    """Names of the views in the text. four: front, right side, back, left side, as the embedded critic learnt them;
    where the critic takes part, cameras stay within 20 degrees of those, and camera.n_views must be 4. eight: those and
    the four between; degrees: degrees to the right or left of the front; none: no names, as in the released VLM3D.
    With these three the cameras are free."""
    together: bool = False
    """Show all view groups of a step in one message, as the released VLM3D does, and not a message for each."""
    questions: QuestionConfig = field(default_factory=QuestionConfig)
    """What is asked."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of the pictures, against adversarial noise."""
    watch: WatchConfig = field(default_factory=WatchConfig)
    """Held-out readings."""
    server: ServerConfig = field(default_factory=ServerConfig)
    """For the family `server`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the weights; auto is bfloat16 where the device multiplies it faster, but float32 for `mini` on a GPU."""
    runtime: Literal["auto", "torch", "transformers"] = "auto"
    """What computes the network: torch, plain torch, for the architecture of `mini` only; transformers, the library,
    whose import takes seconds; auto takes plain torch where it can."""
    quantize: Literal["none", "8bit", "4bit"] = "none"
    """Quantise the weights with bitsandbytes, on a GPU."""
    checkpointing: bool = False
    """Recompute activations instead of storing them: less memory, more time."""
    graphs: bool = True
    """Record looks as CUDA graphs where that is possible: on a GPU, with weights that stay there as they are. A look of
    a 7B critic with its gradient then takes 78 ms instead of 196 (H200); elsewhere this changes nothing."""

    def __post_init__(self) -> None:
        check_ranges(self, "critic")
        if self.family == "server" and self.mode in ("gradient", "both"):
            raise ConfigError(
                f"A server gives no gradients, but critic.mode is {self.mode}. Set critic.mode to best-of-n or "
                "pairwise, or choose a family with weights."
            )
