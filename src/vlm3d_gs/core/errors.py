"""Every error that vlm3d-gs raises on purpose.

One small hierarchy, so that a caller can catch `Vlm3dGsError` and know that the message is meant
for a person: it names the value, what is allowed, and the cure. Classes that correspond to a
built-in error derive from that one too, so `except ValueError` keeps working. Standard library
only: importing this file must never load torch.
"""

from __future__ import annotations

MEMORY_WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
)
"""What libraries write when memory ran out; torch, ONNX Runtime and CUDA raise plain RuntimeErrors."""
OUT_OF_MEMORY = (
    "There is not enough memory for this. Lower what it draws or holds at once (--size-px, --resolution, "
    "camera.resolution_px, scene.n_init, scene.max_gaussians), close other programs, or raise the limit (ulimit -v)."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError | ImportError)
        and any(words in text for words in MEMORY_WORDS)
    )


class Vlm3dGsError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(Vlm3dGsError, ValueError):
    """A setting has a value that is not allowed, or its name is unknown."""


class NotFiniteError(ConfigError):
    """Numbers that must be finite are NaN or infinite."""


class ShapeError(Vlm3dGsError, ValueError):
    """A tensor does not have the shape, dtype or device that the function documents."""


class PromptError(Vlm3dGsError, ValueError):
    """A prompt is empty, or the chosen models do not know its words."""


class LayoutError(Vlm3dGsError, ValueError):
    """A scene graph is malformed, or what it says about its objects cannot hold together."""


class MissingDependencyError(Vlm3dGsError, ImportError):
    """A library or data file that this operation needs is not installed."""


class SetupError(Vlm3dGsError):
    """Something that a run can use cannot be installed or built on this machine."""


class DeviceError(Vlm3dGsError, RuntimeError):
    """The requested device is absent or not capable of the operation."""


class ProcessError(Vlm3dGsError, RuntimeError):
    """One of the processes that make a scene together is gone, or does not answer."""


class CheckpointError(Vlm3dGsError):
    """A checkpoint is missing, truncated, or of another format version."""


class ExportError(Vlm3dGsError):
    """A product cannot be written: unknown suffix, nothing to write, or the target exists."""


class WriteError(ExportError, OSError):
    """The file system refuses to write: no space, no permission, a limit, a folder that is gone."""


class RunLostError(WriteError):
    """Nothing of a run could be written, neither its scene nor a checkpoint, here or elsewhere."""


class InputFileError(Vlm3dGsError):
    """An input file cannot be read as the format that it claims to have."""


class ModelError(Vlm3dGsError):
    """Model weights cannot be found or fetched, or are damaged; or a server that holds them refuses."""
