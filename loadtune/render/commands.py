"""Which command made a report, and which is worth typing next?"""

import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from loadtune.records.report import Report, Verdict
from loadtune.render.words import one_line

LONGER_BUDGET_FACTOR = 2
"""What an undecided run should ask for. An interval shrinks with the root of the time: less hardly helps."""


class NextStep(NamedTuple):
    """The command to type next, and why."""

    purpose: str
    command: str


def compose_next(report: Report, saved_as: str) -> NextStep:
    """Return the one command that makes most sense now.

    Args:
        report: What was found.
        saved_as: Path of the saved report, as the user would type it.
    """
    recommendation = report.recommendation
    if recommendation is None:
        return NextStep("run it again", compose_command(report))
    if recommendation.verdict is Verdict.INCONCLUSIVE:
        return NextStep("a longer run tells smaller differences", compose_longer_command(report))
    if report.request.device.kind == "cpu":
        command = (*report.request.command, "--step-time", "SECONDS")
        return NextStep("for a GPU that takes SECONDS a step", _join(command))
    return NextStep("show this again", f"loadtune report {shlex.quote(one_line(saved_as))}")


def compose_command(report: Report) -> str:
    """Return the command line that made the report, quoted for a shell."""
    return _join(report.request.command)


def compose_longer_command(report: Report) -> str:
    """Return the user's own command with twice the budget."""
    budget = f"{report.request.budget_s * LONGER_BUDGET_FACTOR:.0f}s"
    words = list(report.request.command)
    kept = [
        word
        for index, word in enumerate(words)
        if word != "--budget" and not word.startswith("--budget=") and words[max(index - 1, 0)] != "--budget"
    ]
    if not kept or PurePath(kept[0]).name != "loadtune":
        return f"{_join(kept)} with budget_s={report.request.budget_s * LONGER_BUDGET_FACTOR:.0f}".strip()
    return _join([*kept, "--budget", budget])


def _join(words: Sequence[str]) -> str:
    """Quote a command line; a call from Python is one word and stays as it is."""
    return one_line(words[0]) if len(words) == 1 else shlex.join([one_line(word) for word in words])
