"""Which command made a report, and which is worth typing next?"""

import shlex
from collections.abc import Collection, Sequence
from pathlib import PurePath
from typing import NamedTuple

from loadtune.records.report import Report, Verdict
from loadtune.records.verification import Verification
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
        return NextStep("run it again", _join(_without_outputs(report.request.command)))
    if recommendation.verdict is Verdict.INCONCLUSIVE and recommendation.baseline.failure is None:
        return NextStep("a longer run tells smaller differences", compose_longer_command(report))
    if report.request.device.kind == "cpu":
        return NextStep("for a GPU that takes SECONDS a step", _compose_again(report, "step_time_s", "SECONDS"))
    return compose_show(saved_as)


def compose_show(saved_as: str) -> NextStep:
    """Return the command that shows a saved file again."""
    return NextStep("show this again", f"loadtune report {shlex.quote(one_line(saved_as))}")


def compose_command(report: Report | Verification) -> str:
    """Return the command line that made the report or verification, quoted for a shell."""
    return _join(report.request.command)


def compose_longer_command(report: Report) -> str:
    """Return the user's own command with twice the budget."""
    return _compose_again(report, "budget_s", f"{report.request.budget_s * LONGER_BUDGET_FACTOR:.0f}")


def _compose_again(report: Report, argument: str, value: str) -> str:
    """Return the user's command with another option, without those that would refuse to run twice or contradict it."""
    words = list(report.request.command)
    if not words or PurePath(words[0]).name != "loadtune":
        said = f"budget='{value}s'" if argument == "budget_s" else f"{argument}={value}"
        return f"{_join(words)} with {said}".strip()
    option, unit = {"budget_s": ("--budget", "s"), "step_time_s": ("--step-time", "")}[argument]
    dropped = {option, *({"--device"} if argument == "step_time_s" else ())}
    return _join([*_without_outputs(words, dropped), option, f"{value}{unit}"])


def _without_outputs(words: Sequence[str], also: Collection[str] = ()) -> list[str]:
    """Return a command's words without the files it wrote, which are there now, and without other options."""
    dropped = {"--out", "--json", *also}
    return [
        word
        for index, word in enumerate(words)
        if word != "--force"
        and word not in dropped
        and words[max(index - 1, 0)] not in dropped
        and not word.startswith(tuple(f"{each}=" for each in dropped))
    ]


def _join(words: Sequence[str]) -> str:
    """Quote a command line; a call from Python is one word and stays as it is."""
    return one_line(words[0]) if len(words) == 1 else shlex.join([one_line(word) for word in words])
