"""Every error that vlm3d-gs raises on purpose.

One small hierarchy, so that a caller can catch `Vlm3dGsError` and know that the message is meant
for a person: it names what was given, what is allowed, and the cure. Classes that stand for a
familiar Python error derive from that one too, so `except ValueError` keeps working. Standard
library only: importing this file must never load torch.
"""

from __future__ import annotations


class Vlm3dGsError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(Vlm3dGsError, ValueError):
    """A setting has a value that is not allowed, or its name is unknown."""


class ShapeError(Vlm3dGsError, ValueError):
    """A tensor has another shape, dtype or device than the function documents."""


class PromptError(Vlm3dGsError, ValueError):
    """A prompt is empty, or the chosen models do not know its words."""


class MissingDependencyError(Vlm3dGsError, ImportError):
    """An optional library is needed for what was asked and is not installed."""


class DeviceError(Vlm3dGsError, RuntimeError):
    """The asked device is absent, or cannot do what was asked."""


class CheckpointError(Vlm3dGsError):
    """A checkpoint is missing, truncated, or of another format version."""


class ExportError(Vlm3dGsError):
    """A product cannot be written: unknown suffix, nothing to write, or the target exists."""


class InputFileError(Vlm3dGsError):
    """A file given by the user cannot be read as what it claims to be."""


class ModelError(Vlm3dGsError):
    """Model weights are nowhere to be found, cannot be fetched, or are damaged."""
