from __future__ import annotations

import pytest

from vlm3d_gs.core import errors


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ConfigError", ValueError),
        ("NotFiniteError", ValueError),
        ("ShapeError", ValueError),
        ("ProcessError", RuntimeError),
        ("PromptError", ValueError),
        ("LayoutError", ValueError),
        ("MissingDependencyError", ImportError),
        ("SetupError", Exception),
        ("DeviceError", RuntimeError),
        ("CheckpointError", Exception),
        ("ExportError", Exception),
        ("WriteError", OSError),
        ("RunLostError", OSError),
        ("InputFileError", Exception),
        ("ModelError", Exception),
    ],
)
def test_every_error_is_ours_and_of_the_familiar_kind(name: str, builtin: type) -> None:
    error = getattr(errors, name)
    assert issubclass(error, errors.Vlm3dGsError)
    assert issubclass(error, builtin)
    assert error.__doc__


def test_no_error_class_is_left_out_of_this_list() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert len(classes) == 16
