"""How a run starts: the prompt read, models loaded, a first cloud."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import torch

from vlm3d_gs.assembly.device import device_notes, has_small_models_only
from vlm3d_gs.assembly.first_cloud import first_cloud
from vlm3d_gs.assembly.forecast import needs
from vlm3d_gs.assembly.objective import Objective, build_objective, check_mode
from vlm3d_gs.assembly.plan import plan_memory
from vlm3d_gs.assembly.weights import embedded, locate_models, text_cache
from vlm3d_gs.config import Config, CriticConfig, PriorConfig
from vlm3d_gs.core.errors import ConfigError, DeviceError, ModelError, PromptError
from vlm3d_gs.core.prompts import Prompt, nearest, parse_prompt, plain_words, unknown_words
from vlm3d_gs.core.seeding import generator, generators
from vlm3d_gs.layout.grammar import parse_scene
from vlm3d_gs.models import embedded_weights, family_entry
from vlm3d_gs.optimize.optimizer import SceneOptimizer
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.runs.folder import LAYOUT_FILE
from vlm3d_gs.spread.ranks import joined
from vlm3d_gs.spread.renderer import DividedRenderer

STREAMS = ("cameras", "backgrounds", "densify", "noise", "critic", "targets")
"""Names of the random streams of a run; each is seeded from `train.seed` and its name."""


def read_prompt(text: str, priors: Mapping[str, PriorConfig], critic: CriticConfig) -> Prompt:
    """Parse the prompt, and refuse one that an embedded model of the run does not understand.

    Raises:
        PromptError: unknown words, also in a question to an embedded critic; the message lists the known ones.
    """
    prompt = parse_prompt(text)
    if not embedded(priors, critic):
        return prompt
    if prompt.composition is None:
        raise PromptError(prompt.refusal)
    _check_asks(critic)
    return replace(prompt, text=plain_words(text))


def _check_asks(critic: CriticConfig) -> None:
    """Refuse questions of the user in words that an embedded critic has never seen: it would answer all the same."""
    if not critic.enabled or critic.family == "server":
        return
    if not family_entry("critic", critic.family).embedded:
        return
    tokenizer = embedded_weights("critic") / "tokenizer.json"
    learned = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    for ask in critic.questions.asks:
        text = ask.rpartition("@")[0] or ask
        unknown = unknown_words(text, learned)
        if unknown:
            raise PromptError(
                f"The embedded critic does not know {', '.join(map(repr, unknown))} in {text!r}{nearest(unknown)}, and "
                "would answer at random. Use the words of `vlm3d-gs questions`.\n"
                "For any question use a large critic: --critic qwen2.5-vl-7b"
            )


def is_scene(config: Config, *, resume: bool = False) -> bool:
    """Return whether the objects of a run's prompt are made one by one, as a layout says.

    The embedded models know one or two objects of usual size; more, several alike and other sizes need a layout. Large
    models get any prompt as a whole.

    Args:
        config: the run.
        resume: whether an interrupted run is continued: as it began.

    Raises:
        LayoutError: too many objects.
    """
    if resume and (config.out / LAYOUT_FILE).is_file():
        return True
    if not embedded(config.priors, config.critic) or parse_prompt(config.prompt).composition:
        return False
    try:
        parse_scene(plain_words(config.prompt))
    except PromptError:
        return False  # what nobody understands, the run refuses, with all that it knows
    return True


def new_run(
    config: Config, prompt: Prompt, device: torch.device, *, progress: bool = False
) -> tuple[TrainState, Objective, list[str]]:
    """Load the models and make the first cloud.

    Args:
        config: the run.
        prompt: what the scene should show.
        device: of the networks and the scene.
        progress: show progress bars of downloads.

    Returns:
        The state that steps change, what they optimise, and notes for the user.
    """
    check_mode(config.critic, config.prior, config.train.loop)
    streams = generators(config.train.seed, STREAMS)
    try:
        folders = locate_models(
            config.priors, config.critic, offline=config.offline, progress=progress
        )
        plan, notes = plan_memory(config, folders, device)
    except ModelError as error:
        raise ModelError(f"{needs(config)}{error}") from error
    except DeviceError as error:
        raise DeviceError(f"{needs(config)}{error}") from error

    objective = build_objective(
        config,
        prompt,
        folders,
        device,
        streams,
        text_cache=text_cache(config.priors, config.critic),
        plan=plan,
    )

    notes = [
        *device_notes(config.device, device, small=has_small_models_only(config)),
        *notes,
    ]
    return new_state(config, device, streams), objective, notes


def expect_one_process(config: Config) -> None:
    """Refuse a run of several processes where only `generate` can divide the work."""
    if config.processes > 1:
        raise ConfigError(
            f"processes={config.processes} belongs to generate: this is done by one process. Set processes=1."
        )


def new_state(
    config: Config, device: torch.device, streams: dict[str, torch.Generator]
) -> TrainState:
    """Make the first cloud and its optimizer: a run before its first step."""
    random = generator(config.train.seed, "first cloud")
    cloud = replace(
        first_cloud(config.scene, random).to(device),
        antialiased=config.render.rasterize_mode == "antialiased",
    )
    state = TrainState(SceneOptimizer(cloud, config.optim), streams)
    if ranks := joined():
        state.render = DividedRenderer(ranks, lambda: state.step)
    return state
