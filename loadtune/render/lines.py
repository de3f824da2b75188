"""How do sentences become lines of a given width? What every answer in the terminal is laid out with."""

import re
import textwrap
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from loadtune.render.answer import Notice, Row
from loadtune.render.commands import NextStep

LABEL_WIDTH = 9
"""Room for the longest label, `ceiling`, and two spaces; a longer label would break the column."""

MIN_TEXT_WIDTH = 24
"""Below this a paragraph has about three words a line; a narrower terminal wraps by itself."""

INDENT = 2

_NO_BREAK = "\N{NO-BREAK SPACE}"

_BOLD, _DIM, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"

_INTERVAL = re.compile(r"\[\d[\d. ]*\]")
"""The bounds beside an estimate, such as `[1.84 2.00]`."""


def format_row(row: Row, width: int, *, margin: int = 0, label_width: int = LABEL_WIDTH) -> list[str]:
    """Put the label before the first line, and every line in the column after it."""
    label, blank = " " * margin + row.label.ljust(label_width), " " * (margin + label_width)
    lines = wrap(row.lines[0], width, first=label, rest=blank + " " * INDENT)
    for text in row.lines[1:]:
        lines += wrap(text, width, first=blank, rest=blank + " " * INDENT)
    return lines


def format_list(title: str, items: Iterable[str], width: int) -> list[str]:
    """Return a titled list, or nothing where there are no items."""
    lines = [line for item in items for line in wrap(item, width, first="  - ", rest="    ")]
    return ["", title, *lines] if lines else []


def format_warnings(notices: Iterable[Notice], width: int) -> list[str]:
    """Return each warning with its hint below it."""
    lines: list[str] = []
    for notice in notices:
        lines += wrap(notice.what, width, first="warning: ", rest="  ")
        if notice.hint:
            lines += wrap(notice.hint, width, first="  hint: ", rest="    ")
    return ["", *lines] if lines else []


def format_next(step: NextStep, width: int) -> list[str]:
    """Return the next command on a line of its own, unwrapped, below what it is for."""
    return ["", *wrap(step.purpose, width, first="next: ", rest="  "), " " * INDENT + step.command]


def print_lines(lines: Iterable[str], console: Console) -> None:
    """Print lines that may hold ANSI codes; a console without colour shows the words alone."""
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True, highlight=False)


def wrap(text: str, width: int, *, first: str, rest: str) -> list[str]:
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


def emphasise(line: str) -> str:
    """Set a line's label bold and its interval bounds dim; the text between the codes is unchanged."""
    label = re.match(r"(?!  )[a-z][a-z ]{0,12}?(?=:|  |$)", line)
    end = label.end() if label else 0
    tail = _INTERVAL.sub(lambda match: f"{_DIM}{match.group()}{_RESET}", line[end:])
    return (f"{_BOLD}{line[:end]}{_RESET}" if end else "") + tail
