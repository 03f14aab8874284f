"""View-dependent prompts: the same text for the front, the side, the back and from above.

A single-image model does not know where the camera is, so each camera gets the text of its view: by hard bins, or by
interpolating the embedded texts between neighbouring views. Azimuth 0 sees the front; left and right are both the side,
since these models do not distinguish them. Letters: B cameras, K = 4 texts in the order of `VIEWS`.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.checks import expect_shape
from vlm3d_gs.core.errors import ConfigError, PromptError
from vlm3d_gs.prior.denoiser import TextEmbedding

VIEWS = ("front", "side", "back", "overhead")
"""Order of the texts, and of the columns of all weights."""
FRONT, SIDE, BACK, OVERHEAD = range(4)
HALF_ANGLE_DEG = 45.0
"""Front and back extend this far to both sides; some recipes use 30 (threestudio's ProlificDreamer and MVDream)."""
OVERHEAD_DEG = 60.0
"""Cameras above this elevation look from overhead."""
OVERHEAD_BAND_DEG = 30.0
"""Width of the band of elevations around `OVERHEAD_DEG` in which interpolation goes over to overhead."""

_FACE_AWAY = "|".join(
    (
        r"(?:looking|staring|gazing|smiling|facing) (?:straight )?(?:at|to|towards?|into) the (?:camera|viewer)",
        r"facing (?:the (?:camera|viewer)|forwards?|us)",
        r"(?:making |with )?eye contact",
    )
)
_FACE_HIDDEN = "|".join(
    (
        r"with an? (?:big |wide |happy )?(?:smile|grin|frown)(?: on (?:its|his|her|their) face)?",
        r"(?:smiling|grinning|frowning|winking)",
        r"with (?:its|his|her|their) (?:eyes|mouth) (?:open|closed)",
    )
)
_VIEW_PHRASES = {
    "front": r"(?:front|frontal|head-on) (?:view|shot)|(?:seen |viewed |view )?from the front",
    "side": r"(?:side|profile) (?:view|shot)|in profile|(?:seen |viewed |view )?from the side",
    "back": r"(?:back|rear|backside) (?:view|shot)|(?:seen |viewed |view )?from (?:behind|the back)",
    "overhead": r"(?:overhead|top|top-down|aerial|bird's[- ]eye) (?:view|shot)|(?:seen |viewed |view )?from above",
}
"""Phrases that name a view; each contradicts the other views."""
_CONTRADICTIONS = {
    "front": (),
    "side": (_FACE_AWAY,),
    "back": (_FACE_AWAY, _FACE_HIDDEN),
    "overhead": (_FACE_AWAY, _FACE_HIDDEN),
}
"""Phrases for what cannot be seen from a view."""


def view_texts(prompt: str, *, debias: bool = False) -> tuple[str, str, str, str]:
    """Return the texts of a prompt for the four views.

    Args:
        prompt: describes the scene.
        debias: drop phrases that contradict a view from its text, see `drop_contradictions`.

    Raises:
        PromptError: the prompt contains no word.

    Example:
        >>> view_texts("a corgi")
        ('a corgi, front view', 'a corgi, side view', 'a corgi, back view', 'a corgi, overhead view')
    """
    if not re.search(r"\w", prompt):
        raise PromptError(f"The prompt {prompt!r} contains no word; describe the scene.")
    front, side, back, overhead = (
        f"{_tidy(drop_contradictions(prompt, view) if debias else prompt)}, {view} view"
        for view in VIEWS
    )
    return front, side, back, overhead


def drop_contradictions(prompt: str, view: str) -> str:
    """Drop the phrases of a prompt that contradict a view, by a fixed list of English phrases.

    Phrases that name another view ("seen from the front") are dropped for every view but their own, "looking at the
    camera" and the like for all but the front, and expressions of a face ("smiling") from behind and above. The same in
    other words is not recognised. A prompt of which nothing would be left stays as it is.

    Args:
        prompt: any text.
        view: one of `VIEWS`.

    Raises:
        ConfigError: unknown view.

    Source: after the prompt debiasing of Hong et al. 2023 (arXiv 2303.15413), who find such words with a language
    model; here a list replaces that model.
    """
    if view not in VIEWS:
        raise ConfigError(f"Unknown view {view!r}. Known: {', '.join(VIEWS)}.")

    other_views = [
        rf"(?:an? |the )?(?:{phrases})(?: of)?"
        for other, phrases in _VIEW_PHRASES.items()
        if other != view
    ]
    pattern = "|".join((*other_views, *_CONTRADICTIONS[view]))
    rest = _tidy(re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", " ", prompt, flags=re.IGNORECASE))
    return rest if re.search(r"\w", rest) else prompt


def _tidy(text: str) -> str:
    """Close the gaps that dropped words leave: spaces, doubled commas, and conjunctions at the end."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(?:\s*,)+", ",", text).strip(" ,.;")
    return re.sub(r"(?:[\s,]+(?:and|with|while))+$", "", text, flags=re.IGNORECASE).strip(" ,.;")


def view_weights(
    cameras: Cameras,
    *,
    interpolate: bool = True,
    half_angle_deg: float = HALF_ANGLE_DEG,
    overhead_deg: float = OVERHEAD_DEG,
) -> Tensor:
    """Return the weight of each view's text for each camera.

    Interpolated weights are linear in the azimuth between front, side and back, at 0, 90 and 180 degrees from the front
    to either side; within 15 degrees of `overhead_deg` they go over to overhead, linearly in the elevation. Hard bins
    give one view the whole weight.

    Args:
        cameras: B cameras.
        interpolate: mix neighbouring views; False uses hard bins.
        half_angle_deg: hard bins only: front is within this of azimuth 0, back within this of 180; above 0, at most 90.
        overhead_deg: elevation above which a camera is overhead, above 0, at most 90.

    Returns:
        [B, 4] float32 in [0, 1] on the cameras' device; each row sums to 1.

    Raises:
        ConfigError: an angle outside its range.

    Source: Poole et al. 2022 (DreamFusion, arXiv 2209.14988), section 3.2, step 3; half angle as in threestudio.
    """
    for name, value in (("half_angle_deg", half_angle_deg), ("overhead_deg", overhead_deg)):
        if not 0.0 < value <= 90.0:
            raise ConfigError(f"{name} must be above 0 and at most 90 degrees, got {value:g}.")

    from_front = degrees_from_front(cameras.azimuths_deg)
    elevations = cameras.elevations_deg.float()
    if interpolate:
        overhead = ((elevations - overhead_deg) / OVERHEAD_BAND_DEG + 0.5).clamp(0.0, 1.0)
        front = (1.0 - from_front / 90.0).clamp(0.0, 1.0)
        back = (from_front / 90.0 - 1.0).clamp(0.0, 1.0)
        around = torch.stack([front, 1.0 - front - back, back], -1)
        return torch.cat([around * (1.0 - overhead)[:, None], overhead[:, None]], -1)

    view = torch.full_like(from_front, SIDE, dtype=torch.int64)
    view[from_front >= 180.0 - half_angle_deg] = BACK
    view[from_front <= half_angle_deg] = FRONT
    view[elevations > overhead_deg] = OVERHEAD
    return torch.nn.functional.one_hot(view, len(VIEWS)).float()


def degrees_from_front(azimuths_deg: Tensor) -> Tensor:
    """Return the angles between azimuths and the front, to either side: 0 to 180 degrees, float32."""
    return (torch.remainder(azimuths_deg.float() + 180.0, 360.0) - 180.0).abs()


def mix_texts(texts: TextEmbedding, weights: Tensor) -> TextEmbedding:
    """Return one text embedding per camera: the weighted sum of the embedded texts, tokens and pooled alike.

    Args:
        texts: K embedded texts.
        weights: [B, K], for example from `view_weights`, on the device of the texts.

    Returns:
        B embedded texts in the dtype of `texts`, summed in float32 or better. Differentiable in both.

    Raises:
        ShapeError: the number of texts is not K.
    """
    expect_shape("weights", weights, (None, len(texts)))

    def mix(embedded: Tensor) -> Tensor:
        precise = torch.promote_types(embedded.dtype, torch.float32)
        return torch.tensordot(weights.to(precise), embedded.to(precise), dims=1).to(embedded.dtype)

    return TextEmbedding(mix(texts.tokens), None if texts.pooled is None else mix(texts.pooled))
