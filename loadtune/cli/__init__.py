"""Arguments in, exit code out: the only room that prints or exits.

Exit codes: 0 an answer was given (whatever the verdict), or all that was verified holds; 1 to 9 as `errors` lists them;
10 something verified does not hold; 11 nothing fails, and something could not be told; 12 the doctor warns; 13 it finds
an error; 130 interrupted, and the answer rests on what there was; 70 a bug of ours, with its traceback.
"""

import sys
from typing import Annotated

import typer

from loadtune.cli.doctor_command import doctor
from loadtune.cli.explain_command import explain
from loadtune.cli.file_commands import profile, report, schema
from loadtune.cli.probe_command import probe
from loadtune.cli.schedule_command import schedule
from loadtune.cli.verify_command import verify
from loadtune.errors import LoadtuneError

HELP_WIDTH = 100
"""Widest help text: beyond it the eye loses the line."""

app = typer.Typer(
    name="loadtune",
    help="Measures which DataLoader setting, batch size and learning rate a PyTorch training should use.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH},
)
for command in (probe, verify, doctor, report, explain, schedule, schema, profile):
    app.command()(command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        app(args=arguments, prog_name="loadtune")
    except LoadtuneError as error:
        from loadtune.render.words import visible

        print(f"loadtune: error: {visible(error.what)}\n  hint: {visible(error.hint)}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:  # Typer's way to end, with the code of typer.Exit or of a wrong option
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def version_wanted(value: bool) -> None:
    """Print the version and stop."""
    if value:
        from loadtune.version import __version__

        print(f"loadtune {__version__} (distribution loadtune-probe)")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=version_wanted, is_eager=True)] = False,
) -> None:
    """Measures which DataLoader setting, batch size and learning rate a PyTorch training should use."""
