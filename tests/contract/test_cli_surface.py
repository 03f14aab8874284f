"""The commands and options of the command line are frozen in tests/golden/cli_options.txt.

Run this file to print them anew (`make golden`), and look at the difference before committing it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from vlm3d_gs.cli import app


def surface() -> str:
    """Return every command with its arguments, options, and whether each is a switch."""
    lines: list[str] = []

    def describe(command, path: str) -> None:
        lines.append(path)
        for parameter in command.params:
            names = "/".join([*parameter.opts, *parameter.secondary_opts])
            kind = "switch" if getattr(parameter, "is_flag", False) else "value"
            many = " ..." if parameter.nargs != 1 or getattr(parameter, "multiple", False) else ""
            if parameter.param_type_name == "argument":
                names = (parameter.name or "").upper()
            lines.append(f"  {names} {kind}{many}")
        for name, child in sorted(getattr(command, "commands", {}).items()):
            describe(child, f"{path} {name}")

    describe(typer.main.get_command(app), "vlm3d-gs")
    return "\n".join(lines) + "\n"


def test_the_command_line_is_frozen(golden: Path) -> None:
    frozen = (golden / "cli_options.txt").read_text()
    assert surface() == frozen, "changed on purpose? run `make golden` and commit the difference"


if __name__ == "__main__":
    sys.stdout.write(surface())
