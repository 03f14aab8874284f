"""The command line: one command a file, and no logic in any of them.

Nothing here loads torch before a command runs, so that `--help` is quick.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vlm3d_gs import __version__
from vlm3d_gs.cli.batch import batch as batch_command
from vlm3d_gs.cli.bench import bench as bench_command
from vlm3d_gs.cli.compare import compare as compare_command
from vlm3d_gs.cli.convert import convert as convert_command
from vlm3d_gs.cli.doctor import doctor as doctor_command
from vlm3d_gs.cli.evaluate import app as evaluate_app
from vlm3d_gs.cli.film import film as film_command
from vlm3d_gs.cli.generate import generate as generate_command
from vlm3d_gs.cli.html import html as html_command
from vlm3d_gs.cli.info import info as info_command
from vlm3d_gs.cli.layout import layout as layout_command
from vlm3d_gs.cli.mesh import mesh as mesh_command
from vlm3d_gs.cli.models import app as models_app
from vlm3d_gs.cli.plan import plan as plan_command
from vlm3d_gs.cli.questions import questions as questions_command
from vlm3d_gs.cli.refine import refine as refine_command
from vlm3d_gs.cli.render import render as render_command
from vlm3d_gs.cli.serve import serve as serve_command
from vlm3d_gs.cli.settings import settings as settings_command
from vlm3d_gs.cli.setup import app as setup_app
from vlm3d_gs.cli.studio import studio as studio_command
from vlm3d_gs.cli.terminal import speak_any_name
from vlm3d_gs.cli.verify import verify as verify_command
from vlm3d_gs.cli.view import view as view_command
from vlm3d_gs.cli.waiting import shorten_waits
from vlm3d_gs.core.errors import OUT_OF_MEMORY, RunLostError, Vlm3dGsError, is_out_of_memory
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.runs.interrupt import Interrupted, ended_by_signals

USER_ERROR = 2
"""Exit code of every error that the user can fix."""
RUN_LOST = 1
"""Exit code where nothing of a run could be saved."""


class _Commands(TyperGroup):
    """Prints a user's mistake as one red line with exit code 2; other exceptions are bugs and are shown whole."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        told = set[str]()

        def tell_once(text: str) -> None:
            if text not in told:
                told.add(text)
                typer.secho(f"note: {text}", fg=typer.colors.YELLOW, err=True)

        code = USER_ERROR
        try:
            with ended_by_signals(), noticing(tell_once):
                return super().invoke(ctx)
        except Interrupted as error:
            message, code = str(error), error.exit_code
        except RunLostError as error:
            message, code = str(error), RUN_LOST
        except Vlm3dGsError as error:
            message = str(error)
        except typer.BadParameter as error:
            message = error.format_message().replace("Value error, ", "")
        except BrokenPipeError:
            # Whoever read our output has had enough.
            raise
        except (MemoryError, RuntimeError, OSError, ImportError) as error:
            if is_out_of_memory(error):
                message = OUT_OF_MEMORY
            elif isinstance(error, OSError):
                name = str(error.filename or "the output")[:200]
                message = (
                    f"{error.strerror or error}: {name}. Check the path, its rights and its disk."
                )
            else:
                raise

        # File names and what files hold may contain anything; a terminal gets letters only.
        message = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
        # A closed terminal takes no message, but the exit code still says it.
        with suppress(OSError):
            typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
        raise typer.Exit(code)


app = typer.Typer(
    name="vlm3d-gs",
    cls=_Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="A sentence in, a 3D Gaussian splat out.",
)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Define the options that belong to no command, and prepare what must precede the import of torch."""
    shorten_waits()
    speak_any_name()


app.command("generate")(generate_command)
app.command("studio")(studio_command)
app.command("plan")(plan_command)
app.command("batch")(batch_command)
app.command("serve")(serve_command)
app.command("refine")(refine_command)
app.command("layout")(layout_command)
app.command("questions")(questions_command)
app.command("settings")(settings_command)
app.command("render")(render_command)
app.command("film")(film_command)
app.command("html")(html_command)
app.command("view")(view_command)
app.command("mesh")(mesh_command)
app.command("convert")(convert_command)
app.command("info")(info_command)
app.command("compare")(compare_command)
app.command("verify")(verify_command)
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(models_app, name="models")
app.add_typer(setup_app, name="setup")
app.command("bench")(bench_command)
app.command("doctor")(doctor_command)
