"""An engine for batches whose assets go wrong as their prompts say, and which writes down what it begins."""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from vlm3d_gs.batch.engine import Beat, DryEngine
from vlm3d_gs.batch.items import Item, Shared
from vlm3d_gs.batch.outcome import Outcome
from vlm3d_gs.core.errors import PromptError
from vlm3d_gs.core.files import writing

NAME = "faulty_engine:FaultyEngine"
BEGUN = "begun.txt"


class SharedFiles(LocalFileSystem):
    """A store that all processes of this machine see: shared:///FOLDER."""

    protocol = "shared"

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "auto_mkdir": True})

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("shared://"))


fsspec.register_implementation("shared", SharedFiles, clobber=True)


class FaultyEngine(DryEngine):
    def make(self, item: Item, shared: Shared, folder: Path, beat: Beat) -> Outcome:
        # Behind a URL an asset is made in a room of its own, and what was begun is written down elsewhere.
        out = Path(os.environ.get("FAULTY_ENGINE_OUT", folder.parents[2]))
        with (out / BEGUN).open("a") as file:
            file.write(f"{item.id}\n")

        word = item.prompt.split()[0]
        once = out / f"once-{item.id}"
        if word == "segfault" or (word == "segfault-once" and not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)  # Ray's own handler writes down the stack first
        if word == "memory":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "nap":
            time.sleep(2.0)
        if word == "large":
            with writing(folder):
                folder.mkdir(exist_ok=True)
                (folder / "large.bin").write_bytes(bytes(400_000))
            time.sleep(2.0)
            (folder / "large.bin").unlink()
        if word == "hang":
            time.sleep(3600)
        if word == "unknown":
            raise PromptError("No such word.")
        if word == "bug":
            raise ZeroDivisionError("a mistake of ours")
        if word == "full":
            with writing(folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if word == "slow" and not once.exists():
            # As a run does: steps until somebody stops it, then it is saved, and goes on at the next call.
            for step in range(600):
                if beat(step, 600):
                    once.touch()
                    return replace(super().make(item, shared, folder, beat), status="stopped")
                time.sleep(0.05)
        return super().make(item, shared, folder, beat)
