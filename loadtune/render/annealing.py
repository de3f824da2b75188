"""What does another batch make of the learning rate and its schedule? Pictures, and the code to paste.

Report and code say what was handed over and what is assumed; nothing is worked out here.
"""

from typing import NamedTuple

from loadtune.records.report import LearningRate, Report, TrainingProgress
from loadtune.render.words import format_interval, format_number, one_line


class AnnealingChart(NamedTuple):
    """Learning rate against samples seen, before and after."""

    batch_sizes: tuple[int, int]
    samples: tuple[int, ...]
    rates: tuple[tuple[float, ...], tuple[float, ...]]
    is_relative: bool
    """The rates are shares of the old base rate, which was not told."""


class AnnealingView(NamedTuple):
    """What is to be said of one other batch: its schedule in words, its chart and its code."""

    batch_size: int
    """Samples behind one optimizer step of one rank."""
    factor: str
    rule: str
    described: str | None
    """The schedule; None: not known."""
    is_assumed: bool
    chart: AnnealingChart | None
    code: tuple[str, ...]
    warnings: tuple[str, ...]


def compute_annealing(report: Report) -> tuple[AnnealingView, ...]:
    """Return a view for each batch size the report offers that asks for another rate, the recommendation's first."""
    recommendation = report.recommendation
    if recommendation is None:
        return ()
    told = (recommendation.learning_rate, *(each.learning_rate for each in recommendation.alternatives))
    by_batch = {each.batch_size: each for each in reversed(told) if each.code}
    rate = report.request.workload.learning_rate
    return tuple(_compute_view(by_batch[size], rate) for size in sorted(by_batch))


def _compute_view(told: LearningRate, rate: float | None) -> AnnealingView:
    schedule = told.schedule
    return AnnealingView(
        batch_size=told.batch_size,
        factor=f"{told.factor:.3g}",
        rule=one_line(told.rule),
        described=None if schedule is None else one_line(schedule.described),
        is_assumed=schedule is not None and schedule.is_assumed,
        chart=_compute_chart(told, rate),
        code=tuple(map(one_line, told.code)),
        warnings=tuple(map(one_line, told.warnings)),
    )


def _compute_chart(told: LearningRate, rate: float | None) -> AnnealingChart | None:
    """Return the picture; None where only the metric could tell, or the data have no length."""
    points = () if told.schedule is None else told.schedule.points
    if len(points) < 2:
        return None
    base = 1.0 if rate is None else rate
    return AnnealingChart(
        batch_sizes=(told.base_batch_size, told.batch_size),
        samples=tuple(at for at, _, _ in points),
        rates=(tuple(base * before for _, before, _ in points), tuple(base * after for _, _, after in points)),
        is_relative=rate is None,
    )


def compose_progress(progress: TrainingProgress) -> str:
    """Say what the samples a second are worth: beside 1, whether to take the batch."""
    samples = f"{format_number(progress.samples_ratio)} times the samples for the same loss"
    speed = format_interval(progress.ratio, progress.low, progress.high)
    over = "the speed to it of the setting chosen for your own batch"
    if progress.is_at_least:
        doubt = "" if progress.ratio > 1 else ": not shown to pay until the noise scale is measured far on in training"
        return f"by a noise scale that is a lower bound only, at most {samples}, so at least {speed} {over}{doubt}"
    doubt = "; it may be slower" if progress.low is not None and progress.low < 1 < progress.ratio else ""
    return f"by the noise scale {samples}, so {speed} {over}{doubt}"
