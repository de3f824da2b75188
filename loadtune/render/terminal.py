"""What does a report look like in a terminal? The answer, then why, warnings, what to paste, what is next."""

from rich.console import Console

from loadtune.records.report import Report
from loadtune.render.annealing import compute_annealing
from loadtune.render.answer import (
    compose_alternatives,
    compose_answer,
    compose_dataset,
    compose_device,
    compose_headline,
    compose_warnings,
    compose_why,
)
from loadtune.render.attributing import compose_attribution
from loadtune.render.commands import compose_next
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
from loadtune.render.pasting import compose_paste, compose_paste_label
from loadtune.render.readings import compose_missing


def answer_lines(report: Report, width: int = 80, color: bool = False, saved_as: str = "report.json") -> list[str]:
    """Return a report as lines without line ends.

    Args:
        report: What to show; it may lack a recommendation.
        width: Columns to fill. Commands and code are never wrapped, so that they can be pasted.
        color: Set labels bold and interval bounds dim with ANSI codes. The words are the same without.
        saved_as: Path of the saved report, for the command that shows it again.
    """
    lines = format_row(compose_device(report), width)
    lines += format_row(compose_dataset(report.dataset), width)
    lines += ["", *wrap(compose_headline(report), width, first="", rest="")]
    for row in compose_answer(report):
        lines += format_row(row, width)
    for row in compose_attribution(report):
        lines += format_row(row, width)
    more = " (of a [rule]: loadtune explain RULE)" if report.findings else ""
    lines += format_list(f"why{more}", compose_why(report), width)
    lines += format_list("other answers", compose_alternatives(report), width)
    lines += format_list("readings that are missing", compose_missing(report.readings), width)
    lines += format_warnings(compose_warnings(report), width)
    if (paste := compose_paste(report)) is not None:
        lines += ["", *wrap(compose_paste_label(report), width, first="", rest="  ")]
        lines += [" " * INDENT + line for line in paste.splitlines()]
    for view in compute_annealing(report):
        label = f"paste, with a batch of {view.batch_size}: learning rate times {view.factor}, and its schedule"
        lines += ["", *wrap(label, width, first="", rest="  ")]
        for text in view.warnings:
            lines += wrap(text, width, first="  - ", rest="    ")
        lines += [" " * INDENT + line for line in view.code]
    lines += format_next(compose_next(report, saved_as), width)
    return [emphasise(line) for line in lines] if color else lines


def print_answer(report: Report, console: Console, saved_as: str = "report.json") -> None:
    """Print a report to a rich console, in colour where that console shows any."""
    has_color = console.color_system is not None
    print_lines(answer_lines(report, width=console.width, color=has_color, saved_as=saved_as), console)
