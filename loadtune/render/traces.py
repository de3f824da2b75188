"""What did the machine do while a trial ran? GPU, CPU and memory over time, as lines of numbers for small drawings.

The two settings of the verdict are shown large, all other trials as small multiples on the same scales. What was not
read is said in words: a line at zero would look like a reading.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from loadtune.records.measurement import TrialResult, TrialState
from loadtune.records.report import Report
from loadtune.records.resources import ResourceTrace
from loadtune.render.answer import baseline_settings, choice_word, is_of_setting
from loadtune.render.words import NOT_MEASURED, format_bytes, format_seconds, format_trial, one_line

LARGE_POINTS, SMALL_POINTS = 120, 40
"""Points of a line; neighbours are averaged. Every reading of every trial would make the page ten times as large."""
SHORTEST_S = 1e-3
"""A trace of one instant has no length to divide by."""
SMALL_MAX = 24
"""Small multiples shown: more are a carpet that nobody reads, and the table holds their numbers."""

Series = list[tuple[float, float]]
"""(seconds, value)."""


class TraceLine(NamedTuple):
    """One line; `name` is also its CSS class."""

    name: str
    points: str
    """As an SVG polyline takes them, x and y from 0 to 100."""


class Strip(NamedTuple):
    """One quantity over time. Without lines, `note` says why."""

    name: str
    top: str
    """What the upper edge stands for."""
    lines: tuple[TraceLine, ...]
    note: str


class TraceView(NamedTuple):
    """One trial's strips."""

    title: str
    word: str
    """`now` or `use` for the settings of the verdict, else empty."""
    strips: tuple[Strip, ...]
    measuring: tuple[float, float] | None
    """Start and width of the time in which it measured, in hundredths; None: not marked."""
    length: str


class Traces(NamedTuple):
    """All that is drawn, and how many trials are not."""

    large: tuple[TraceView, ...]
    small: tuple[TraceView, ...]
    left_out: int


class _Scales(NamedTuple):
    cores: float
    memory_bytes: int


def compute_traces(report: Report) -> Traces | None:
    """Return the traces of all trials that were watched for more than a moment; None where none was."""
    watched = [trial for trial in report.trials if trial.trace is not None and len(trial.trace.host) > 1]
    if not watched:
        return None
    scales = _find_scales(report, watched)
    words = {baseline_settings(report): "now"}
    if report.recommendation is not None:
        words.setdefault(report.recommendation.settings, choice_word(report.recommendation))
    large: dict[str, TrialResult] = {}
    for trial in watched:
        word = words.get(trial.settings, "")
        if word and is_of_setting(report, trial) and trial.state is TrialState.COMPLETE:
            large[word] = trial  # the last of several
    others = [trial for trial in watched if trial not in large.values()]
    return Traces(
        large=tuple(_view(report, trial, word, scales, LARGE_POINTS) for word, trial in large.items()),
        small=tuple(_view(report, trial, "", scales, SMALL_POINTS) for trial in others[:SMALL_MAX]),
        left_out=max(0, len(others) - SMALL_MAX),
    )


def _find_scales(report: Report, watched: Sequence[TrialResult]) -> _Scales:
    """Return the upper edges that all trials share, so that their heights can be compared."""
    samples = [sample for trial in watched if trial.trace is not None for sample in trial.trace.host]
    memory_bytes = max((sample.memory_bytes or 0 for sample in samples), default=0)
    # A process that is first seen brings all that it used until then, which looks like more cores than there are.
    return _Scales(max(1.0, math.ceil(report.environment.limits.usable_cores)), max(1, memory_bytes))


def _view(report: Report, trial: TrialResult, word: str, scales: _Scales, points: int) -> TraceView:
    trace = trial.trace
    assert trace is not None  # noqa: S101 - `compute_traces` chose those that have one
    end_s = max(SHORTEST_S, *(sample.at_s for sample in trace.host), *(sample.at_s for sample in trace.gpu))
    strips = [_cpu_strip(trace, scales, end_s, points), _memory_strip(trace, scales, end_s, points)]
    if report.request.device.kind != "cpu":
        strips.insert(0, _gpu_strip(trace, end_s, points))
    measuring = None
    if trace.measuring_s is not None:
        start, stop = (100 * min(1.0, max(0.0, at_s / end_s)) for at_s in trace.measuring_s)
        measuring = round(start, 1), round(stop - start, 1)
    return TraceView(format_trial(trial), word, tuple(strips), measuring, format_seconds(end_s))


def _gpu_strip(trace: ResourceTrace, end_s: float, points: int) -> Strip:
    series = [(sample.at_s, sample.utilisation_ratio) for sample in trace.gpu]
    name = "GPU utilisation, replayed" if trace.gpu_is_replayed else "GPU utilisation"
    if len(series) > 1:
        return Strip(name, "100 %", _lines({"gpu": series}, 1.0, end_s, points), "")
    reasons = [each.reason for each in trace.unavailable if "utilisation" in each.reading or each.reading == "gpu"]
    return Strip(name, "", (), f"{NOT_MEASURED}: {one_line(reasons[0])}" if reasons else NOT_MEASURED)


def _cpu_strip(trace: ResourceTrace, scales: _Scales, end_s: float, points: int) -> Strip:
    series = {
        "workers": _series((sample.at_s, sample.worker_cores) for sample in trace.host),
        "main": _series((sample.at_s, sample.main_cores) for sample in trace.host),
        "others": _series((sample.at_s, sample.foreign_cores) for sample in trace.host),
    }
    lines = _lines(series, scales.cores, end_s, points)
    return Strip("CPU", f"{scales.cores:.0f} cores", lines, "" if lines else NOT_MEASURED)


def _memory_strip(trace: ResourceTrace, scales: _Scales, end_s: float, points: int) -> Strip:
    lines = _lines(
        {"memory": _series((sample.at_s, sample.memory_bytes) for sample in trace.host)},
        scales.memory_bytes,
        end_s,
        points,
    )
    return Strip("memory", format_bytes(scales.memory_bytes), lines, "" if lines else NOT_MEASURED)


def _series(readings: Iterable[tuple[float, float | None]]) -> Series:
    return [(at_s, value) for at_s, value in readings if value is not None]


def _lines(series: dict[str, Series], top: float, end_s: float, points: int) -> tuple[TraceLine, ...]:
    return tuple(
        TraceLine(name, _polyline(thin_out(values, points), top, end_s))
        for name, values in series.items()
        if len(values) > 1
    )


def thin_out(values: Series, points: int) -> Series:
    """Return at most so many points, each the mean of neighbours."""
    if len(values) <= points:
        return values
    edges = [place * len(values) // points for place in range(points + 1)]
    groups = [values[first:last] for first, last in pairwise(edges)]
    return [
        (sum(at_s for at_s, _ in group) / len(group), sum(value for _, value in group) / len(group)) for group in groups
    ]


def _polyline(values: Series, top: float, end_s: float) -> str:
    places = (
        (100 * min(1.0, max(0.0, at_s / end_s)), 100 * (1 - min(1.0, max(0.0, value / top)))) for at_s, value in values
    )
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
