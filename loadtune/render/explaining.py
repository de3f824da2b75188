"""What does the page of a rule look like in a terminal? Meaning, evidence, thresholds with sources, validation."""

from loadtune.advice.pages import PAGES, Page
from loadtune.advice.thresholds import Threshold
from loadtune.render.answer import Row
from loadtune.render.lines import format_row, wrap
from loadtune.render.words import format_number

LABEL_WIDTH = 11
"""Room for `thresholds` and a space."""
NAME_WIDTH = 25
"""Room for `thread-oversubscription` and two spaces."""


def explain_lines(page: Page, width: int = 80) -> list[str]:
    """Return one rule's page as lines."""
    rows = [
        Row("looks at", (page.evidence,)),
        Row("thresholds", tuple(map(describe_threshold, page.thresholds)) or ("none: a fact, not a measure",)),
        Row("validated", (page.validated,)),
    ]
    if page.silent:
        rows.append(Row("silent", (page.silent,)))
    lines = [page.rule, "", *wrap(page.meaning, width, first="", rest=""), ""]
    for row in rows:
        lines += format_row(row, width, label_width=LABEL_WIDTH)
    return lines


def describe_threshold(threshold: Threshold) -> str:
    """Return a threshold in one sentence: its value, its source, and what changing it would do."""
    unit = f" {threshold.unit}" if threshold.unit else ""
    return f"{threshold.name} {format_number(threshold.value)}{unit}. {threshold.source}; {threshold.effect}."


def list_lines(width: int = 80) -> list[str]:
    """Return all rules, a line or two each: the first sentence of the meaning."""
    lines: list[str] = []
    for page in PAGES:
        first = page.meaning.split(". ")[0].split(": ")[0].rstrip(".")
        lines += wrap(first, width, first=page.rule.ljust(NAME_WIDTH), rest=" " * NAME_WIDTH)
    return lines
