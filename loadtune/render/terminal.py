"""What does a report look like in a terminal? The answer, then why, warnings, what to paste, what is next."""

import re
import textwrap
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from loadtune.records.report import Report
from loadtune.render.answer import (
    Notice,
    Row,
    compose_alternatives,
    compose_answer,
    compose_dataset,
    compose_device,
    compose_headline,
    compose_paste,
    compose_paste_label,
    compose_warnings,
    compose_why,
)
from loadtune.render.commands import compose_next

LABEL_WIDTH = 9
"""Room for the longest label, `ceiling`, and two spaces; a longer label would break the column."""

MIN_TEXT_WIDTH = 24
"""Below this a paragraph has about three words a line; a narrower terminal wraps by itself."""

INDENT = 2

_NO_BREAK = "\N{NO-BREAK SPACE}"

_BOLD, _DIM, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"

_INTERVAL = re.compile(r"\[\d[\d. ]*\]")
"""The bounds beside an estimate, such as `[1.84 2.00]`."""


def answer_lines(report: Report, width: int = 80, color: bool = False, saved_as: str = "report.json") -> list[str]:
    """Return a report as lines without line ends.

    Args:
        report: What to show; it may lack a recommendation.
        width: Columns to fill. Commands and code are never wrapped, so that they can be pasted.
        color: Set labels bold and interval bounds dim with ANSI codes. The words are the same without.
        saved_as: Path of the saved report, for the command that shows it again.
    """
    lines = _format_row(compose_device(report), width)
    lines += _format_row(compose_dataset(report), width)
    lines += ["", *_wrap(compose_headline(report), width, first="", rest="")]
    for row in compose_answer(report):
        lines += _format_row(row, width)
    lines += _format_list("why", compose_why(report), width)
    lines += _format_list("other answers", compose_alternatives(report), width)
    lines += _format_warnings(compose_warnings(report), width)
    if (paste := compose_paste(report)) is not None:
        lines += ["", *_wrap(compose_paste_label(report), width, first="", rest="  "), " " * INDENT + paste]
    step = compose_next(report, saved_as)
    lines += ["", *_wrap(step.purpose, width, first="next: ", rest="  "), " " * INDENT + step.command]
    return [_emphasise(line) for line in lines] if color else lines


def print_answer(report: Report, console: Console, saved_as: str = "report.json") -> None:
    """Print a report to a rich console, in colour where that console shows any."""
    has_color = console.color_system is not None
    for line in answer_lines(report, width=console.width, color=has_color, saved_as=saved_as):
        console.print(Text.from_ansi(line), soft_wrap=True, highlight=False)


def _format_row(row: Row, width: int) -> list[str]:
    """Put the label before the first line, and every line in the column after it."""
    label, blank = row.label.ljust(LABEL_WIDTH), " " * LABEL_WIDTH
    lines = _wrap(row.lines[0], width, first=label, rest=blank + " " * INDENT)
    for text in row.lines[1:]:
        lines += _wrap(text, width, first=blank, rest=blank + " " * INDENT)
    return lines


def _format_list(title: str, items: Iterable[str], width: int) -> list[str]:
    """Return a titled list, or nothing where there are no items."""
    lines = [line for item in items for line in _wrap(item, width, first="  - ", rest="    ")]
    return ["", title, *lines] if lines else []


def _format_warnings(notices: Iterable[Notice], width: int) -> list[str]:
    """Return each warning with its hint below it."""
    lines: list[str] = []
    for notice in notices:
        lines += _wrap(notice.what, width, first="warning: ", rest="  ")
        if notice.hint:
            lines += _wrap(notice.hint, width, first="  hint: ", rest="    ")
    return ["", *lines] if lines else []


def _wrap(text: str, width: int, *, first: str, rest: str) -> list[str]:
    """Wrap between words only: a setting or path is never cut, nor a per cent sign from its number."""
    lines = textwrap.wrap(
        text.replace(" %", f"{_NO_BREAK}%"),
        width=max(width, len(rest) + MIN_TEXT_WIDTH),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(f"{_NO_BREAK}%", " %") for line in lines] or [first.rstrip()]


def _emphasise(line: str) -> str:
    """Set a line's label bold and its interval bounds dim; the text between the codes is unchanged."""
    label = re.match(r"(?!  )[a-z][a-z ]{0,12}?(?=:|  |$)", line)
    end = label.end() if label else 0
    tail = _INTERVAL.sub(lambda match: f"{_DIM}{match.group()}{_RESET}", line[end:])
    return (f"{_BOLD}{line[:end]}{_RESET}" if end else "") + tail
