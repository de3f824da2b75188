"""What does a verification look like in a terminal? A block a claim, the readings, and how many claims hold."""

from rich.console import Console

from loadtune.records.verification import Check, Outcome, Verification
from loadtune.render.answer import Row
from loadtune.render.checks import (
    OUTCOME_WORDS,
    compose_check,
    compose_context,
    compose_count,
    compose_notices,
    compose_took,
    compose_verdict,
)
from loadtune.render.commands import compose_show
from loadtune.render.lines import (
    INDENT,
    emphasise,
    format_list,
    format_next,
    format_row,
    format_warnings,
    print_lines,
    wrap,
)
from loadtune.render.readings import compose_readings
from loadtune.render.words import one_line

MARK_WIDTH = max(map(len, OUTCOME_WORDS.values())) + 2
"""The ids of the checks line up behind the marks."""

CHECK_LABEL_WIDTH = 10
"""Room for the longest label of a check, `measured`, and two spaces."""

MARK_CODES = {Outcome.HOLDS: "\x1b[32m", Outcome.FAILS: "\x1b[1;31m", Outcome.UNKNOWN: "\x1b[33m"}
"""Green, bold red and yellow, on top of the words."""

RESET_CODE = "\x1b[0m"


def verification_lines(
    verification: Verification, width: int = 80, color: bool = False, saved_as: str | None = None
) -> list[str]:
    """Return a verification as lines without line ends.

    Args:
        verification: What to show; it may still be running.
        width: Columns to fill. The command is never wrapped, so that it can be pasted.
        color: Colour the marks and set labels bold with ANSI codes. The words are the same without.
        saved_as: Path of the saved file, for the command that shows it again; None: no such command.
    """
    blocks = [_format_check(check, width, color) for check in verification.checks]
    tail = format_list("readings", compose_readings(verification.readings), width)
    tail += format_warnings(compose_notices(verification), width)
    tail += ["", *wrap(compose_verdict(verification), width, first="", rest="")]
    for row in (Row("claims", (compose_count(verification),)), compose_took(verification)):
        tail += format_row(row, width)
    if saved_as is not None:
        tail += format_next(compose_show(saved_as), width)
    lines = [line for row in compose_context(verification) for line in format_row(row, width)]
    lines = [*_colour(lines, color), *(line for block in blocks for line in block)]
    return [*lines, *_colour(tail, color)]


def print_verification(verification: Verification, console: Console, saved_as: str | None = None) -> None:
    """Print a verification to a rich console, in colour where that console shows any."""
    has_color = console.color_system is not None
    print_lines(verification_lines(verification, console.width, has_color, saved_as), console)


def _format_check(check: Check, width: int, color: bool) -> list[str]:
    """Return the mark with the check's id, then the claim and what stands behind the mark, indented."""
    mark, name = OUTCOME_WORDS[check.outcome].ljust(MARK_WIDTH), one_line(check.id)
    head = f"{MARK_CODES[check.outcome]}{mark}{RESET_CODE}{name}" if color else f"{mark}{name}"
    margin = " " * INDENT
    lines = wrap(one_line(check.claim), width, first=margin, rest=margin)
    for row in compose_check(check):
        lines += format_row(row, width, margin=INDENT, label_width=CHECK_LABEL_WIDTH)
    return ["", head, *lines]


def _colour(lines: list[str], color: bool) -> list[str]:
    return [emphasise(line) for line in lines] if color else lines
