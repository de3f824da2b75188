"""What can `loadtune explain` be told?"""

import difflib
from typing import Annotated

import typer

from loadtune.errors import UsageError


def explain(
    rule: Annotated[
        str | None, typer.Argument(help="A rule that a finding names; without one, all are listed.")
    ] = None,
) -> None:
    """Say what a rule means, by which thresholds it speaks, and how it was validated."""
    from rich.console import Console

    from loadtune.advice.pages import BY_RULE
    from loadtune.render.explaining import explain_lines, list_lines
    from loadtune.render.lines import print_lines

    console = Console(highlight=False)
    if rule is None:
        print_lines(list_lines(console.width), console)
        return
    if rule not in BY_RULE:
        close = difflib.get_close_matches(rule, BY_RULE, n=1)
        hint = f"did you mean {close[0]}?" if close else "`loadtune explain` lists the rules"
        raise UsageError(f"there is no rule {rule!r}", hint)
    print_lines(explain_lines(BY_RULE[rule], console.width), console)
