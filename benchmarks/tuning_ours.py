"""What does loadtune answer on a world of `tuning`, when, and what stood before? Asked by a fresh command line."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.tuning_rivals import Answer
from benchmarks.tuning_settings import Point, batches, write_profile
from loadtune.advice.search import is_end_to_end
from loadtune.advice.selection import Choice, Terms, choose, recommend
from loadtune.errors import NothingMeasuredError
from loadtune.records.measurement import TrialResult
from loadtune.records.report import Alternative, Report
from loadtune.records.settings import Settings
from loadtune.render.saved import read_report

ROOT = Path(__file__).resolve().parent.parent
PROBE_LIMIT_S = 240.0
"""After which a probe counts as hung: four times its budget."""


class ProbeFailedError(Exception):
    """The command line gave no report; the text is the end of what it said."""


def ask_ours(world: str, seed: int, budget_s: float) -> tuple[Answer, str]:
    """Return the answer with its course, and the verdict.

    Raises:
        ProbeFailedError: There was no answer: a fault of ours, which must be looked at and not scored.
    """
    sizes = ",".join(map(str, batches(world)))
    with TemporaryDirectory() as folder:
        saved, device = Path(folder) / "copy.json", Path(folder) / "device.json"
        write_profile(world, seed, device)
        command = [sys.executable, "-m", "loadtune", "probe", "--search", "guided", "--quiet", "--fresh"]
        command += ["--dataset", f"benchmarks.tuning_worlds:{world}_{seed}", "--device", f"replay:{device}"]
        command += ["--batch-size", sizes, "--budget", f"{budget_s:g}s"]
        command += ["--json", str(saved), "--out", f"{folder}/report"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_LIMIT_S, cwd=ROOT, check=False)
        if not saved.exists():
            raise ProbeFailedError(f"{world} {seed}: {done.stderr[-1000:]}")
        report = read_report(saved)
    verdict = "no recommendation" if report.recommendation is None else report.recommendation.verdict.value
    return read_answer(report), verdict


def read_answer(report: Report) -> Answer:
    """Return the final answer, and when it stood.

    That is at the end of the screening where the duel confirmed its choice, and of everything where it did not.
    """
    baseline, trials = report.request.baseline, report.trials
    course = list(read_course(trials, baseline))
    told = report.recommendation
    final = point_of(baseline if told is None else _larger(told.alternatives) or told.settings)
    screened_s = max((t.started_s + t.seconds_spent for t in trials if t.role != "variant"), default=0.0)
    if course and course[-1][1] == final:
        return Answer(final, screened_s, course)
    ended_s = screened_s + sum(duel.seconds_spent for duel in report.duels)
    return Answer(final, ended_s, [*course, (ended_s, final)])


def read_course(trials: tuple[TrialResult, ...], baseline: Settings) -> Iterator[tuple[float, Point]]:
    """Yield what would have been recommended after each end-to-end trial of the screening."""
    terms = Terms(baseline=baseline, baseline_origin="", optimizer="sgd")
    seen: list[TrialResult] = []
    for trial in trials:
        if trial.role == "variant":
            continue
        seen.append(trial)
        if not is_end_to_end(trial):
            continue
        try:
            chosen: Choice = choose(seen, baseline)
        except NothingMeasuredError:
            continue
        told = recommend(chosen, None, seen, terms)
        yield trial.started_s + trial.seconds_spent, point_of(_larger(told.alternatives) or chosen.settings)


def point_of(settings: Settings) -> Point:
    """Return a setting's place on the two axes."""
    return settings.num_workers, settings.batch_size


def _larger(alternatives: tuple[Alternative, ...]) -> Settings | None:
    """Return the larger batch that is offered: whoever leaves the batch size free takes it."""
    return next((each.settings for each in alternatives if each.kind == "larger batch"), None)
