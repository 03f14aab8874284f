"""What each saving in the critic's step is worth: forward and backward to the pixels of the views, once.

    python benchmarks/bench_critic.py --model mini
    python benchmarks/bench_critic.py --model tiny-qwen --views 4 --size 252

All ways take turns in one process. Each is given as a ratio to ours, with the time of its matrix products at the
machine's measured rate (those of a CUDA graph cannot be counted: 0). `released` is the procedure of the released VLM3D
code (released.py). Models other than `mini` are built in their published sizes (or a tenth of them, `tiny-qwen`) with
random weights: speed does not depend on the values.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from harness import arguments, measure, record, row
from random_models import CRITICS, random_critic
from released import released_log_odds
from torch.utils._python_dispatch import TorchDispatchMode

from vlm3d_gs.app.floors import matrix_rate, operation_counter
from vlm3d_gs.core.precision import fast_dtype
from vlm3d_gs.core.recording import cuda_recorder
from vlm3d_gs.critic.questions.templates import GEOMETRY_QUESTION, VIEW_NAMES, content_question
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.models import embedded_weights

QUESTIONS = [
    content_question("a red cube on top of a blue sphere"),
    content_question("a blue ball under a red box"),
    GEOMETRY_QUESTION,
]


class Models:
    """One set of weights, used in different ways; each is built when it is first used."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.dtype = fast_dtype(device) or torch.float32
        self.usual = YesNoModel(folder, device, self.dtype)

    @cached_property
    def transformers(self) -> YesNoModel:
        """With the network of transformers, and our attention and patch embedding; for large models the usual one."""
        return YesNoModel(self.folder, self.device, self.dtype, runtime="transformers")

    @cached_property
    def uncached(self) -> YesNoModel:
        """The same, without caching the text before the views."""
        return YesNoModel(self.folder, self.device, self.dtype, cache_text=False)

    @cached_property
    def graphed(self) -> YesNoModel:
        """The same weights, replayed as CUDA graphs."""
        model = copy(self.usual)
        model.recorder = cuda_recorder(self.device)
        return model

    @cached_property
    def checkpointed(self) -> YesNoModel:
        """With activations recomputed in the backward pass."""
        return YesNoModel(self.folder, self.device, self.dtype, checkpointing=True)

    @cached_property
    def library(self) -> YesNoModel:
        """With the attention and patch embedding of transformers."""
        return YesNoModel(self.folder, self.device, self.dtype, fast_modules=False)

    @cached_property
    def other(self) -> YesNoModel:
        """In float32 if the usual one is in bfloat16, else in bfloat16."""
        other = torch.float32 if self.dtype == torch.bfloat16 else torch.bfloat16
        return YesNoModel(self.folder, self.device, other)


class Counter(TorchDispatchMode):
    """Counts operations of torch; on a GPU most of them launch one kernel or more."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def count_operations(function: Callable[[], Any]) -> tuple[int, int]:
    """Return how many operations of torch a call takes (views included), and the FLOP of its matrix products."""
    with operation_counter() as flop_counter, Counter() as counter:
        function()
    return counter.count, flop_counter.get_total_flops()


def ways(models: Models, images: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Return each way to get the gradient of the questions' log-odds with respect to the pictures."""
    model = models.usual
    names = VIEW_NAMES[: len(images)]

    def gradient(odds: torch.Tensor) -> None:
        torch.autograd.grad(odds.sum(), images)

    def released(questions: list[str]) -> None:
        for question in questions:
            gradient(released_log_odds(models.library, images, names, question))

    def one_by_one() -> None:
        for question in QUESTIONS:
            gradient(model.log_odds(images, names, [question]))

    functions = {
        "ours, three questions": lambda: gradient(model.log_odds(images, names, QUESTIONS)),
        "ours, one question": lambda: gradient(model.log_odds(images, names, QUESTIONS[:1])),
        "three questions, one after the other": one_by_one,
        "by transformers": lambda: gradient(models.transformers.log_odds(images, names, QUESTIONS)),
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
        "as a CUDA graph": lambda: gradient(models.graphed.log_odds(images, names, QUESTIONS)),
        "in the other type": lambda: gradient(models.other.log_odds(images, names, QUESTIONS)),
    }
    if models.device.type != "cuda":
        del functions["as a CUDA graph"]
    return functions


def main() -> None:
    """Time all ways in turn and print their ratios to ours."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["mini", *CRITICS], default="mini")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=64, help="side of the renders, px")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=2, help="untimed calls of each way")
    parser.add_argument(
        "--ways", default="", help="names separated by semicolons, ours first; default: all"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        folder = embedded_weights("critic")
        if options.model != "mini":
            folder = random_critic(options.model, Path(temporary))
        time_ways(Models(folder, device), options)


def time_ways(models: Models, options: Namespace) -> None:
    """Time the chosen ways in turn, and write the JSON after each."""
    device = models.device
    images = torch.rand(options.views, options.size, options.size, 3, device=device)
    functions = ways(models, images.requires_grad_())
    if options.ways:
        functions = {name: functions[name] for name in options.ways.split(";")}
    elif options.model != "mini":
        del functions["in the other type"]  # would take twice the memory
        del functions["by transformers"]  # as ours is

    rows, ours, rate = [], 0.0, matrix_rate(device)
    for name, function in functions.items():
        function()  # builds its model and the cache of its message
        launched, flop = count_operations(function)

        held_mib = 0.0
        if device.type == "cuda":
            held_mib = torch.cuda.memory_allocated() / 2**20
            torch.cuda.reset_peak_memory_stats()
        timing = measure(function, warm_up=options.warm_up, repeats=options.repeats)
        ours = ours or timing.median_ms

        case = {
            "model": options.model,
            "views": options.views,
            "size_px": options.size,
            "way": name,
            "operations": launched,
            "floor_ms": round(1e3 * flop / rate, 2),
        }
        if device.type == "cuda":
            case["above_weights_mib"] = torch.cuda.max_memory_allocated() / 2**20 - held_mib

        rows.append(row(case | {"ratio": timing.median_ms / ours}, timing))
        print(
            f"{name:40} {timing.median_ms:9.1f} ms  {timing.median_ms / ours:5.2f}"
            f"  {case['operations']} operations  floor {case['floor_ms']} ms",
            flush=True,
        )
        path = record(f"critic_{options.model}", rows, options.out)

    print(path)


if __name__ == "__main__":
    main()
