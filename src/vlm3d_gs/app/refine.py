"""A splat that is there already, made better: drawn anew after its own looks, and kept only if a judge prefers it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from vlm3d_gs.app.earlier import scene_parts
from vlm3d_gs.assembly.device import run_device
from vlm3d_gs.assembly.first_cloud import cloud_of_file, kind_of
from vlm3d_gs.assembly.objective import Objective
from vlm3d_gs.assembly.start import expect_one_process, new_run, read_prompt
from vlm3d_gs.config import Config
from vlm3d_gs.config.refining import SOUND, WRONG, for_refining
from vlm3d_gs.core.errors import ConfigError, ExportError
from vlm3d_gs.core.gaussians import Gaussians, concatenate, with_sh_degree
from vlm3d_gs.core.images import resize
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.critic.judge import Judge
from vlm3d_gs.critic.questions.templates import view_names
from vlm3d_gs.critic.watch import GREY, HELD_OUT_SCALE, HELD_OUT_VIEWS, OWN_VIEWS, named_views
from vlm3d_gs.edit.transform import shifted
from vlm3d_gs.formats.convert import format_of_file, write_splat
from vlm3d_gs.formats.options import ReadOptions
from vlm3d_gs.formats.registry import format_of_suffix
from vlm3d_gs.optimize.guidance import Progress, Views
from vlm3d_gs.optimize.optimizer import SceneOptimizer
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.optimize.targets import Chain, TargetSource, border_colors
from vlm3d_gs.optimize.trainer import Observer, train
from vlm3d_gs.render import Backend, render
from vlm3d_gs.runs.interrupt import stop_requests
from vlm3d_gs.runs.log import RunLog
from vlm3d_gs.show.framing import bounds


@dataclass(frozen=True)
class Refined:
    """What became of a splat."""

    path: Path
    """The file that was written."""
    accepted: bool
    """Whether it holds the refined splat; else it holds the original."""
    before: tuple[float, ...]
    """Held-out log-odds of the original, look by look."""
    after: tuple[float, ...]
    """The same of the refined one."""
    noise_level: float
    """Of the first round."""

    @property
    def verdict(self) -> str:
        """What the judge said, as a line that names no file."""
        scores = ", ".join(
            f"{before:.1f} to {after:.1f}"
            for before, after in zip(self.before, self.after, strict=True)
        )
        word = "refined" if self.accepted else "not better, so it stays as it was"
        return f"{word}: the held-out judge goes from {scores}"

    @property
    def message(self) -> str:
        """What a person should know, as a line."""
        word, _, scores = self.verdict.partition(": ")
        if self.accepted:
            return f"{word}, written to {self.path}: {scores}"
        return f"not better, so {self.path} is the original: {scores}"


def refine_splat(
    source: Path,
    config: Config,
    out: Path,
    *,
    keep: float = 0.0,
    noise_level: float | None = None,
    steps: int | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    reading: ReadOptions | None = None,
    observe: Observer | None = None,
) -> Refined:
    """Refine a splat file towards a prompt.

    It is moved and scaled into the unit ball by the robust box that product cameras use, unless it is there already,
    and put back at the end. The held-out judge then looks twice, from views that no round used. It scores each splat
    alone, so there is no order in which they are shown; only if the refined one is better in both looks is that
    written, else the original, byte for byte where the format stays.

    Args:
        source: the file: a splat, points or a mesh, as `assembly.first_cloud` reads them.
        config: the prompt, and the preset to refine by; its `out` is not used.
        out: what to write.
        keep: 0 to 1, how much of the original's looks is held: its share in every picture that is fitted.
        noise_level: of the first round, 0 to 1; None chooses by whether critic and judge see the prompt in the splat.
        steps: None for half of the config's.
        overwrite: replace `out`.
        quiet: print nothing.
        reading: how to read the splat; None for the defaults.
        observe: called after each step; may pause or end the run.

    Raises:
        PromptError: the embedded models do not know the prompt.
        ConfigError: a number out of range, or no critic with weights that could judge.
        InputFileError: the splat cannot be read.
        ExportError: `out` is there, or cannot be written.
    """
    _check(config, out, keep, noise_level, overwrite)
    original = cloud_of_file(source, config.scene.n_init, config.train.seed, reading)
    found = refined_cloud(
        original,
        config,
        keep=keep,
        noise_level=noise_level,
        steps=steps,
        quiet=quiet,
        observe=observe,
    )
    if found.better:
        write_splat(found.gaussians, out)
    else:
        _write_original(source, original, out)
    return Refined(out, found.better, found.before, found.after, found.noise_level)


def refine_object(
    folder: Path,
    name: str,
    config: Config,
    out: Path,
    *,
    keep: float = 0.0,
    noise_level: float | None = None,
    steps: int | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Refined:
    """Refine one object of a scene in its own frame, and put it back into every place where it stands.

    Args:
        folder: of a finished scene of several objects, or its splat.
        name: of the object; all things of it become what it becomes.
        config: as in `refine_splat`; the prompt is about the object alone.
        out: the whole scene, as a splat.
        keep: as in `refine_splat`, like all that follow.
        noise_level: see there.
        steps: see there.
        overwrite: see there.
        quiet: see there.

    Raises:
        ConfigError: no object has that name, or as `refine_splat`.
        InputFileError: there is no finished scene.
        PromptError: as `refine_splat`.
        ExportError: as `refine_splat`.
    """
    _check(config, out, keep, noise_level, overwrite)
    parts = scene_parts(folder)
    if name not in parts:
        raise ConfigError(
            f"The scene of {folder} has no object {name!r}. Its objects: {', '.join(parts)}."
        )

    found = refined_cloud(
        parts[name].own, config, keep=keep, noise_level=noise_level, steps=steps, quiet=quiet
    )
    placed = [
        part.at_its_places(found.gaussians) if part.name == name and found.better else part.placed
        for part in parts.values()
    ]
    degree = max(cloud.sh_degree for cloud in placed)
    write_splat(concatenate([with_sh_degree(cloud, degree) for cloud in placed]), out)
    return Refined(out, found.better, found.before, found.after, found.noise_level)


@dataclass(frozen=True)
class Attempt:
    """A refined splat, and what the held-out judge says of it."""

    gaussians: Gaussians
    """Where and as large as the original was, on the CPU."""
    before: tuple[float, ...]
    """As in `Refined`, like all that follow."""
    after: tuple[float, ...]
    noise_level: float

    @property
    def better(self) -> bool:
        """Whether the judge prefers it in every look."""
        return all(new > old for old, new in zip(self.before, self.after, strict=True))


def refined_cloud(
    original: Gaussians,
    config: Config,
    *,
    keep: float,
    noise_level: float | None,
    steps: int | None,
    quiet: bool,
    observe: Observer | None = None,
) -> Attempt:
    """Refine Gaussians of any place and size; arguments and errors as in `refine_splat`."""
    expect_one_process(config)
    prompt = read_prompt(config.prompt, config.priors, config.critic)
    device = run_device(config)
    center, radius = bounds(original, own=True)
    framed = shifted(original, -center / radius, 1.0 / radius).to(device)

    with TemporaryDirectory(prefix="vlm3d-gs-") as folder:
        state, objective, notes = new_run(config, prompt, device, progress=not quiet)
        judge = objective.held_out
        assert objective.own is not None
        assert judge is not None
        backend = config.render.backend
        before = _looks(framed, judge, config, HELD_OUT_VIEWS, HELD_OUT_SCALE)
        if noise_level is None:
            seen = [*before, *_looks(framed, objective.own, config, OWN_VIEWS, 1)]
            noise_level = SOUND if min(seen) > 0.0 else WRONG
        config = for_refining(config, noise_level, len(original))
        if steps is not None:
            config = replace(config, train=replace(config.train, steps=steps))
        state = TrainState(SceneOptimizer(framed, config.optim), state.streams)
        objective = _anchored(objective, framed, keep, backend)

        config = replace(config, out=Path(folder))
        _draw_anew(state, config, objective, notes, quiet=quiet, observe=observe)

    refined = state.optimizer.gaussians.detach()
    after = _looks(refined, judge, config, HELD_OUT_VIEWS, HELD_OUT_SCALE)
    back = shifted(refined.to("cpu"), center, radius)
    return Attempt(back, tuple(before), tuple(after), noise_level)


def _draw_anew(
    state: TrainState,
    config: Config,
    objective: Objective,
    notes: Sequence[str],
    *,
    quiet: bool,
    observe: Observer | None,
) -> None:
    """Run the steps that refine a scene, in place; a signal ends them early."""
    with (
        stop_requests() as stop_requested,
        RunLog(config.out, config, quiet=quiet) as log,
        noticing(log.message),
    ):
        for line in notes:
            log.message(line)
        train(
            state,
            config,
            objective.guidances,
            log,
            reconstruction=objective.reconstruction,
            stop_requested=stop_requested,
            observe=observe,
        )


def _check(
    config: Config, out: Path, keep: float, noise_level: float | None, overwrite: bool
) -> None:
    """Refuse what cannot work before anything is loaded."""
    format_of_suffix(out)
    if out.exists() and not overwrite:
        raise ExportError(f"{out} exists. Give --overwrite to replace it, or another --out.")
    if not out.parent.is_dir():
        raise ExportError(f"Cannot write {out}: the folder {out.parent} does not exist.")
    if not 0.0 <= keep <= 1.0:
        raise ConfigError(f"--keep must be from 0 to 1, got {keep:g}.")
    if noise_level is not None and not 0.001 <= noise_level <= 1.0:
        raise ConfigError(f"--noise must be from 0.001 to 1, got {noise_level:g}.")
    critic = config.critic
    if not critic.enabled or critic.family == "server" or not critic.watch.enabled:
        raise ConfigError(
            "A refined splat is kept only if a judge prefers it, which needs a critic with weights here and "
            "critic.watch.enabled. Name one, for example --critic mini."
        )
    if config.train.loop != "reconstruct" or not config.prior.enabled:
        raise ConfigError(
            "Refining draws pictures, which needs train.loop=reconstruct and prior.enabled=true. Use a preset such "
            "as mini or mvdream."
        )


def _looks(
    gaussians: Gaussians,
    judge: Judge,
    config: Config,
    poses: tuple[tuple[float, float], ...],
    scale: int,
) -> list[float]:
    """Return the judge's log-odds from each of several groups of views."""
    side = round(config.camera.resolution_px(1.0)) * scale
    scores = []
    for offset, height in poses:
        cameras = named_views(config.camera, offset, height, side)
        with torch.no_grad():
            color = render(
                gaussians,
                cameras.to(gaussians.device),
                backend=config.render.backend,
                background=GREY,
            ).color
        names = view_names(cameras.azimuths_deg, config.critic.view_names)
        scores.append(judge.score(color, names))
    return scores


def _anchored(
    objective: Objective, original: Gaussians, keep: float, backend: Backend
) -> Objective:
    """Return an objective whose pictures are drawn towards the original's looks."""
    reconstruction = objective.reconstruction
    if keep == 0.0 or reconstruction is None:
        return objective
    source = AnchoredTargets(reconstruction.source, original, keep, backend)
    return replace(objective, reconstruction=replace(reconstruction, source=source))


class AnchoredTargets:
    """A `TargetSource` that mixes renders of an original into what another one draws.

    The squared difference to the mean of two pictures, weighted, has the gradient of both differences, weighted: the
    anchor term and the fit in one.
    """

    def __init__(
        self, source: TargetSource, original: Gaussians, keep: float, backend: Backend
    ) -> None:
        self.source, self.original, self.keep, self.backend = source, original, keep, backend
        self.name = source.name

    def azimuth_range_deg(self, chain: Chain, progress: Progress) -> tuple[float, float] | None:
        """Return what the other source can draw."""
        return self.source.azimuth_range_deg(chain, progress)

    @torch.no_grad()
    def draw(
        self, views: Views, chain: Chain, progress: Progress
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Return the mixed pictures [C, H, W, 3], of the other source's size, and its scalars."""
        pictures, scalars = self.source.draw(views, chain, progress)

        # In front of the colour that the pictures have themselves.
        shown = render(
            self.original, views.cameras, backend=self.backend, background=border_colors(pictures)
        ).color
        shown = resize(shown, *pictures.shape[1:3])
        return (1.0 - self.keep) * pictures + self.keep * shown, scalars


def _write_original(source: Path, original: Gaussians, out: Path) -> None:
    if out.resolve() == source.resolve():
        return
    same = kind_of(source) == "splat" and source.is_file()
    if same and format_of_file(source) == format_of_suffix(out):
        shutil.copyfile(source, out)
    else:
        write_splat(original, out)
