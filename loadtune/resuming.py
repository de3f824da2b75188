"""What of an interrupted probe can be used again? Its trials, if machine, data, model and options are the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from loadtune.advice.search import Leg
from loadtune.errors import UsageError
from loadtune.records.measurement import TrialResult, TrialState
from loadtune.records.report import Report
from loadtune.render.saved import read_report

FREE = {"budget"}
"""Facts that may differ: whoever goes on with a probe may give it more time."""
FACT_WORDS = {
    "request": "the options",
    "data": "the path of the data",
    "dataset": "what the data set holds",
    "gpus": "the GPUs",
    "cpu": "the processor",
    "cores": "the usable cores",
    "memory": "the memory limit",
    "shm": "the size of /dev/shm",
    "file_system": "the data's file system",
    "python": "the version of Python",
    "versions": "the versions of packages",
    "start_method": "how workers are started",
    "objects": "what was handed over",
    "targets": "the code of --dataset, --model or --train-step",
    "also": "the base batch size, or how broken and cold data are met",
}


class Earlier:
    """Trials of before, handed out once each to the leg that asks for the same."""

    def __init__(self, trials: Sequence[TrialResult] = ()) -> None:
        self._left = [each for each in trials if each.state not in {TrialState.INTERRUPTED, TrialState.SKIPPED}]
        self.used = 0

    def take(self, leg: Leg, number: int) -> TrialResult | None:
        """Return the result of this leg, as trial `number`; None where it was not measured."""
        for each in self._left:
            if (each.settings, each.feed, each.consume, each.round) == (leg.settings, leg.feed, leg.consume, leg.round):
                self._left.remove(each)
                self.used += 1
                return msgspec.structs.replace(each, number=number)
        return None


def open_earlier(path: Path, facts: Mapping[str, str] | None) -> Earlier:
    """Return the trials of a saved report that asked the same question.

    Args:
        path: The report.json of a probe that did not end, or did.
        facts: What decides the answer now, by name; None: it cannot all be told.

    Raises:
        UsageError: It asked another question; what differs is named.
        LoadtuneError: It cannot be read.
    """
    report = read_report(path)
    if facts is None or report.facts is None:
        raise UsageError(
            f"--resume {path}: the data or the model cannot be told from others",
            "leave --resume out: what was measured may have been another training",
        )
    differing = find_differences(report, facts)
    if differing:
        raise UsageError(
            f"--resume {path}: {', '.join(differing)} {'differs' if len(differing) == 1 else 'differ'}",
            "leave --resume out to measure anew, or ask as that report did",
        )
    return Earlier(report.trials)


def find_differences(report: Report, facts: Mapping[str, str]) -> list[str]:
    """Return in words which facts a report does not share."""
    before = report.facts or {}
    names = [name for name in {**before, **facts} if name not in FREE and before.get(name) != facts.get(name)]
    return [FACT_WORDS.get(name, name) for name in names]
