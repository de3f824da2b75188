"""What does a verification look like as a page? Outcome, checks with their intervals, readings and machine."""

from typing import Any, NamedTuple

from loadtune.records.verification import Check, Outcome, Verification
from loadtune.render.answer import Row
from loadtune.render.checks import (
    OUTCOME_WORDS,
    Interval,
    compose_check,
    compose_context,
    compose_count,
    compose_disturbance,
    compose_figure,
    compose_notices,
    compose_took,
    compose_verdict,
    compute_intervals,
    place_on_log_axis,
)
from loadtune.render.commands import compose_command
from loadtune.render.page import render_page
from loadtune.render.tables import compute_environment, compute_workload
from loadtune.render.words import format_device, format_percent, format_ratio, format_settings, one_line
from loadtune.stats import SAME_RATIO

OUTCOME_SHAPES = {Outcome.HOLDS: "\u25cf", Outcome.FAILS: "\u2715", Outcome.UNKNOWN: "\u25d1"}
"""Shapes beside the words, so that an outcome is seen at a glance and never by colour alone."""

OUTCOME_CLASSES = {Outcome.HOLDS: "holds", Outcome.FAILS: "fails", Outcome.UNKNOWN: "unknown"}

REACH_MIN, REACH_MAX = 1.06, 4.0
"""The axis of a drawing ends at this ratio and its inverse: never so near that the band of 3 % fills it, never so
far that the band cannot be seen. An interval beyond is cut off there, and its figures stand below."""

REACH_ROOM = 1.15
"""Share by which the axis is longer than the widest interval, in logarithms, so that its end is seen."""

MARK_PERCENT = 0.5
"""Width of the strokes at 1 and at the estimate; on a telephone it is over a pixel."""


class Bar(NamedTuple):
    """Where an interval, its estimate and the band lie on the axis, in per cent of its length."""

    interval: Interval
    start: float
    width: float
    estimate: float
    described: str


class Drawing(NamedTuple):
    """The intervals of one check, on one axis."""

    bars: tuple[Bar, ...]
    band_start: float
    band_width: float
    ends: tuple[str, str]


class CheckView(NamedTuple):
    """One check of the table."""

    id: str
    claim: str
    css_class: str
    shape: str
    outcome: str
    rows: tuple[Row, ...]
    figures: tuple[tuple[str, str], ...]
    drawing: Drawing | None
    disturbance: str


def render_verification_html(verification: Verification) -> str:
    """Return the whole page; the same verification gives the same text, which can always be written as UTF-8."""
    return render_page("verification", verification, _compute_context(verification))


def _compute_context(verification: Verification) -> dict[str, Any]:
    """Return all that the template shows."""
    return {
        "title": f"{one_line(verification.request.dataset)}: {compose_verdict(verification)}",
        "css_class": OUTCOME_CLASSES[verification.outcome],
        "outcome": OUTCOME_WORDS[verification.outcome],
        "device_name": format_device(verification.request.device),
        "headline": compose_verdict(verification),
        "count": compose_count(verification),
        "took": compose_took(verification),
        "context_rows": compose_context(verification),
        "warnings": compose_notices(verification),
        "checks": [_compute_check(check) for check in verification.checks],
        "environment": compute_environment(verification.environment),
        "request": _compute_request(verification),
        "command": compose_command(verification),
        "band": format_percent(SAME_RATIO),
        "mark_percent": MARK_PERCENT,
    }


def _compute_check(check: Check) -> CheckView:
    return CheckView(
        id=one_line(check.id),
        claim=one_line(check.claim),
        css_class=OUTCOME_CLASSES[check.outcome],
        shape=OUTCOME_SHAPES[check.outcome],
        outcome=OUTCOME_WORDS[check.outcome],
        rows=compose_check(check),
        figures=tuple((one_line(figure.quantity), compose_figure(figure)) for figure in check.figures),
        drawing=_compute_drawing(compute_intervals(check)),
        disturbance=compose_disturbance(check),
    )


def _compute_drawing(intervals: tuple[Interval, ...]) -> Drawing | None:
    """Return where each interval lies on their common logarithmic axis around 1; None where there is none."""
    if not intervals:
        return None
    widest = min(REACH_MAX, max(max(interval.high, 1 / interval.low) for interval in intervals))
    reach = min(REACH_MAX, max(REACH_MIN, widest**REACH_ROOM))
    band_start, band_width = _span(1 - SAME_RATIO, 1 + SAME_RATIO, reach)
    bars = tuple(_compute_bar(interval, reach) for interval in intervals)
    return Drawing(bars, band_start, band_width, (format_ratio(1 / reach), format_ratio(reach)))


def _compute_bar(interval: Interval, reach: float) -> Bar:
    start, width = _span(interval.low, interval.high, reach)
    described = f"{interval.label}: {interval.text}, on an axis with 1 in the middle"
    return Bar(interval, start, width, round(place_on_log_axis(interval.estimate, reach), 2), described)


def _span(low: float, high: float, reach: float) -> tuple[float, float]:
    """Return start and width of a stretch of the axis."""
    start, end = place_on_log_axis(low, reach), place_on_log_axis(high, reach)
    return round(start, 2), round(end - start, 2)


def _compute_request(verification: Verification) -> tuple[tuple[str, str], ...]:
    """Return what was verified, as label and text."""
    rows = (
        ("data set", verification.request.dataset),
        ("device", format_device(verification.request.device)),
        ("setting", format_settings(verification.settings)),
        ("quick", "yes" if verification.is_quick else "no"),
    )
    return (*((label, one_line(text)) for label, text in rows), *compute_workload(verification.request))
