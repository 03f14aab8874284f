"""VQAScore: how likely a model is to say Yes to whether the pictures show the prompt.

Source: Lin et al. 2024, arXiv 2404.01291; the question is the default of the authors' t2v_metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vlm3d_gs.evaluate.judges import Answer, Judge, Look

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'


def vqascore(judge: Judge, prompt: str, pictures: Sequence[bytes]) -> list[float | None]:
    """Return the score of each picture, 0 to 1.

    Args:
        judge: best one that knows the probability of Yes among all words; of others, that against No.
        prompt: what the pictures should show.
        pictures: PNG files, each judged by itself.

    Returns:
        None where the judge gave no answer.
    """
    looks = [Look(QUESTION.format(prompt), (picture,)) for picture in pictures]
    return [_score(answer) for answer in judge.ask(looks)]


def _score(answer: Answer) -> float | None:
    if answer.failure or answer.log_odds is None:
        return None
    if answer.probability is not None:
        return answer.probability
    # Stable on both sides.
    odds = answer.log_odds
    small = math.exp(-abs(odds))
    return 1.0 / (1.0 + small) if odds >= 0 else small / (1.0 + small)
