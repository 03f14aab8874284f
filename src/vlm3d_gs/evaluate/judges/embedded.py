"""A judge that answers Yes or No by a network in this process: the embedded critic, or any Qwen-VL that a run can load.

Asked the held-out questions, in other words than a run's and from other views, it is what the package can judge with
offline. It is not independent of the critic, and reports call it what it is.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlm3d_gs.core.images import BROKEN_PICTURE
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.evaluate.judges import Answer, Look

NO_WORDS = "this judge answers by Yes or No alone"


class NetworkJudge:
    """Log-odds of Yes by a network.

    Args:
        model: the network.
        name: what reports call it.
        identity: its weights, e.g. their hash.
    """

    writes = False

    def __init__(self, model: YesNoModel, name: str, identity: str) -> None:
        self.model, self._name, self._identity = model, name, identity

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    @property
    def identity(self) -> str:
        """As given."""
        return self._identity

    def ask(self, looks: Sequence[Look]) -> list[Answer]:
        """Return the answers; looks at the same pictures share one pass over them."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, look in enumerate(looks):
            groups.setdefault((look.pictures, look.names), []).append(index)

        answers: dict[int, Answer] = {}
        for places in groups.values():
            yes_no = [index for index in places if looks[index].choices == 0]
            answers |= {index: Answer(failure=NO_WORDS) for index in set(places) - set(yes_no)}
            if yes_no:
                answers |= dict(
                    zip(yes_no, self._together([looks[i] for i in yes_no]), strict=True)
                )
        return [answers[index] for index in range(len(looks))]

    def _together(self, looks: Sequence[Look]) -> list[Answer]:
        begin = time.monotonic()
        try:
            images = torch.stack([_decode(picture) for picture in looks[0].pictures])
        except BROKEN_PICTURE as error:
            return [Answer(failure=f"a picture cannot be read: {error}") for _ in looks]

        names = looks[0].names or ("",) * len(images)
        with torch.no_grad():
            odds = self.model.log_odds(images, names, [look.text for look in looks]).cpu().tolist()
        seconds = (time.monotonic() - begin) / len(looks)
        return [Answer(log_odds=float(one), seconds=seconds) for one in odds]


def _decode(picture: bytes) -> Tensor:
    with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255.0)
