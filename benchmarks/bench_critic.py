"""What each saving in the critic's step is worth: one look at the views, forward and backward to the pixels.

    python benchmarks/bench_critic.py --model mini
    python benchmarks/bench_critic.py --model tiny-qwen --views 4 --size 252

Every way is timed in turn in one process and given as a ratio to ours, beside the time of its products at the machine's
measured rate (a graph's are not seen: 0). `released` is the procedure of the released
VLM3D code (released.py). Models other than `mini` are built from their
published sizes (or a tenth of them, `tiny-qwen`) with random weights: speed does not depend on the values.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import arguments, measure, record, row
from random_models import CRITICS, random_critic
from released import released_log_odds
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from vlm3d_gs.bench import matrix_rate
from vlm3d_gs.guidance.denoiser import fast_dtype
from vlm3d_gs.guidance.questions import GEOMETRY_QUESTION, VIEW_NAMES, content_question
from vlm3d_gs.guidance.vlm import YesNoModel
from vlm3d_gs.models import embedded_weights

QUESTIONS = [
    content_question("a red cube on top of a blue sphere"),
    content_question("a blue ball under a red box"),
    GEOMETRY_QUESTION,
]


@dataclass(frozen=True)
class Models:
    """One set of weights, used in different ways."""

    usual: YesNoModel
    uncached: YesNoModel
    """Without what the text before the views looks like to the language model."""
    checkpointed: YesNoModel
    library: YesNoModel
    """With transformers' own attention and embedding of patches."""
    other: YesNoModel | None
    """In float32 where the usual one is in bfloat16, else the other way round; for the embedded critic only."""
    graphed: YesNoModel | None
    """By CUDA graphs, on a GPU."""


class Counter(TorchDispatchMode):
    """Counts operations of torch; on a GPU most are one launch or more."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(function: Callable[[], Any]) -> int:
    """Return how many operations a call is, views among them."""
    with Counter() as counter:
        function()
    return counter.count


def least_ms(function: Callable[[], Any], rate: float) -> float:
    """Return how long the products and convolutions of a call take at a rate of operations a second."""
    with FlopCounterMode(display=False) as counter:
        function()
    return 1e3 * counter.get_total_flops() / rate


def ways(models: Models, images: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Return each way to get the gradient of the questions' log-odds on the pictures."""
    model = models.usual
    names = VIEW_NAMES[: len(images)]

    def gradient(odds: torch.Tensor) -> None:
        torch.autograd.grad(odds.sum(), images)

    def released(questions: list[str]) -> None:
        for question in questions:
            gradient(released_log_odds(models.library, images, names, question))

    def apart() -> None:
        for question in QUESTIONS:
            gradient(model.log_odds(images, names, [question]))

    more: dict[str, Callable[[], Any]] = {}
    for name, one in (("as a CUDA graph", models.graphed), ("in the other type", models.other)):
        if one is not None:
            more[name] = partial(lambda m: gradient(m.log_odds(images, names, QUESTIONS)), one)
    return {
        "ours, three questions": lambda: gradient(model.log_odds(images, names, QUESTIONS)),
        "ours, one question": lambda: gradient(model.log_odds(images, names, QUESTIONS[:1])),
        "three questions, one after the other": apart,
        "without cached text": lambda: gradient(models.uncached.log_odds(images, names, QUESTIONS)),
        "with gradient checkpointing": lambda: gradient(
            models.checkpointed.log_odds(images, names, QUESTIONS)
        ),
        "with the library's attention": lambda: gradient(
            models.library.log_odds(images, names, QUESTIONS)
        ),
        "forward only": lambda: model.log_odds(images.detach(), names, QUESTIONS),
        "released, one question": lambda: released(QUESTIONS[:1]),
        "released, three questions": lambda: released(QUESTIONS),
        **more,
    }


def graphed_copy(model: YesNoModel) -> YesNoModel:
    """Return the model with the same weights, replaying its looks as CUDA graphs."""
    twin = copy(model)
    twin.graphs, twin._messages = True, {}
    return twin


def main() -> None:
    """Time all ways in turn and print their ratios to ours."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["mini", *CRITICS], default="mini")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=64, help="side of the renders, px")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = fast_dtype(device) or torch.float32
    turned = torch.float32 if dtype == torch.bfloat16 else torch.bfloat16
    with tempfile.TemporaryDirectory() as temporary:
        folder = embedded_weights("critic")
        if options.model != "mini":
            folder = Path(temporary)
            random_critic(options.model, folder)
        model = YesNoModel(folder, device, dtype)
        uncached = copy(model)  # the same weights
        uncached.cache_text = False
        models = Models(
            model,
            uncached,
            YesNoModel(folder, device, dtype, checkpointing=True),
            YesNoModel(folder, device, dtype, own_parts=False),
            YesNoModel(folder, device, turned) if options.model == "mini" else None,
            graphed_copy(model) if device.type == "cuda" else None,
        )
    images = torch.rand(options.views, options.size, options.size, 3, device=device)
    functions = ways(models, images.requires_grad_())
    rows, ours, rate = [], 0.0, matrix_rate(device)
    for name, function in functions.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        timing = measure(function, warm_up=2, repeats=options.repeats)
        ours = ours or timing.median_ms
        case = {
            "model": options.model,
            "views": options.views,
            "size_px": options.size,
            "way": name,
            "operations": operations(function),
            "floor_ms": round(least_ms(function, rate), 2),
        }
        if device.type == "cuda":
            case["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        rows.append(row(case | {"ratio": timing.median_ms / ours}, timing))
        print(
            f"{name:40} {timing.median_ms:9.1f} ms  {timing.median_ms / ours:5.2f}"
            f"  {case['operations']} operations  floor {case['floor_ms']} ms",
            flush=True,
        )
    print(record(f"critic_{options.model}", rows, options.out))


if __name__ == "__main__":
    main()
