"""What does a verification say, in sentences? The rows and figures that terminal and page share."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from loadtune.records.measurement import Duel
from loadtune.records.verification import RATIO_UNIT, Check, Figure, Outcome, Verification
from loadtune.render.answer import Notice, Row, compose_dataset, compose_device_notes, split_notice
from loadtune.render.words import (
    NOT_MEASURED,
    format_bytes,
    format_device,
    format_interval,
    format_number,
    format_percent,
    format_ratio,
    format_seconds,
    format_settings,
    one_line,
)
from loadtune.stats import ABBA_PAIRS_MIN, DUEL_PAIRS_MIN, duel_interval

OUTCOME_WORDS = {
    Outcome.HOLDS: "holds",
    Outcome.FAILS: "DOES NOT HOLD",
    Outcome.UNKNOWN: "cannot be told",
}
"""The failure in capitals, so that it stands out without colour."""

UNIT_FORMATS: dict[str, Callable[[float], str]] = {
    RATIO_UNIT: format_ratio,
    "ratio": format_percent,
    "s": format_seconds,
    "bytes": lambda value: format_bytes(round(value)),
}
"""Units that have words of their own; any other is written behind its number."""

UNFINISHED_WORDS = {
    "running": "was still running when this was written",
    "interrupted": "was interrupted",
    "failed": "ended early",
}


class Interval(NamedTuple):
    """A ratio of two rates with its bounds; `doubt` says why it is not to be trusted, and is empty where it is."""

    label: str
    estimate: float
    low: float
    high: float
    doubt: str

    @property
    def text(self) -> str:
        """The interval in figures."""
        doubt = f" ({self.doubt})" if self.doubt else ""
        return f"{format_interval(self.estimate, self.low, self.high)}{doubt}"


def compose_context(verification: Verification) -> tuple[Row, ...]:
    """Say where and on what the claims were checked, before anything else."""
    request = verification.request
    device = Row("device", (format_device(request.device), *compose_device_notes(request)))
    data = Row("data", (one_line(request.dataset),))
    if verification.dataset is not None:
        data = compose_dataset(verification.dataset)
    return (device, data, Row("setting", (format_settings(verification.settings),)))


def compose_verdict(verification: Verification) -> str:
    """Return the outcome as one sentence."""
    if not verification.checks:
        return "No claim was checked"
    if verification.outcome is Outcome.FAILS:
        return "Not all that loadtune claims holds here"
    if verification.status != "complete":
        return f"The verification {UNFINISHED_WORDS[verification.status]}: not every claim was checked"
    if verification.outcome is Outcome.UNKNOWN:
        return "Not all that loadtune claims could be told here"
    return "What loadtune claims holds here"


def compose_count(verification: Verification) -> str:
    """Say how many claims hold, and which do not or cannot be told."""
    checks = verification.checks
    unfinished = UNFINISHED_WORDS.get(verification.status)
    if not checks:
        return f"none checked: the verification {unfinished}" if unfinished else "none checked"
    by_outcome = {outcome: [check.id for check in checks if check.outcome is outcome] for outcome in Outcome}
    hold = len(by_outcome[Outcome.HOLDS])
    parts = [f"{hold} of {len(checks)} {'claim holds' if hold == len(checks) == 1 else 'claims hold'}"]
    if fails := by_outcome[Outcome.FAILS]:
        parts.append(f"{len(fails)} {'does' if len(fails) == 1 else 'do'} not: {_list(fails)}")
    if unknown := by_outcome[Outcome.UNKNOWN]:
        parts.append(f"{len(unknown)} cannot be told here: {_list(unknown)}")
    if unfinished and fails:  # where nothing fails, the verdict says so
        parts.append(f"the verification {unfinished}")
    return "; ".join(parts)


def compose_took(verification: Verification) -> Row:
    """Say how long it took, and that a quick run tells less."""
    lines = [format_seconds(verification.seconds_spent)]
    if verification.is_quick:
        lines.append("--quick: fewer repeats and wider intervals; without it more can be told")
    return Row("took", tuple(lines))


def compose_check(check: Check) -> tuple[Row, ...]:
    """Return what was measured, what was promised, why it is not so, and what else a reader must know."""
    rows = [Row("measured", (one_line(check.measured),)), Row("target", (one_line(check.target),))]
    if check.reason:
        rows.append(Row("reason", (one_line(check.reason),)))
    if check.notes:
        rows.append(Row("note", tuple(map(one_line, check.notes))))
    return tuple(rows)


def compose_disturbance(check: Check) -> str:
    """Say how long the check took, and what else the machine did meanwhile."""
    foreign = NOT_MEASURED if check.foreign_cores is None else f"{format_number(check.foreign_cores)} cores"
    steal = NOT_MEASURED if check.steal_ratio is None else format_percent(check.steal_ratio)
    return f"{format_seconds(check.seconds_spent)}; busy outside it: {foreign}; taken by the hypervisor: {steal}"


def compose_figure(figure: Figure) -> str:
    """Return a figure with its unit and bounds, or why there is none."""
    if figure.value is None:
        return f"{NOT_MEASURED}: {one_line(figure.reason or '')}"
    if figure.low is None or figure.high is None:
        return _in_unit(figure.value, figure.unit)
    if figure.unit == RATIO_UNIT:
        return format_interval(figure.value, figure.low, figure.high)
    value, low, high = (_in_unit(number, figure.unit) for number in (figure.value, figure.low, figure.high))
    return f"{value} [{low} to {high}]"


def _in_unit(value: float, unit: str) -> str:
    if unit in UNIT_FORMATS:
        return UNIT_FORMATS[unit](value)
    return f"{format_number(value)} {one_line(unit)}".rstrip()


def compute_intervals(check: Check) -> tuple[Interval, ...]:
    """Return the ratios that a check stands on: as its figures state them, else from its duels."""
    stated = [
        Interval(one_line(figure.quantity), figure.value, figure.low, figure.high, "")
        for figure in check.figures
        if figure.unit == RATIO_UNIT and figure.value is not None and figure.low is not None and figure.high is not None
        if min(figure.value, figure.low, figure.high) > 0  # the axis is logarithmic
    ]
    return tuple(stated) or tuple(_compute_duel_intervals(check.duels))


def _compute_duel_intervals(duels: Iterable[Duel]) -> Iterable[Interval]:
    for duel in duels:
        pairs_min = ABBA_PAIRS_MIN if duel.method == "abba" else DUEL_PAIRS_MIN
        found = duel_interval(duel.pairs, pairs_min=pairs_min)
        if found.estimate is not None and found.low is not None and found.high is not None:
            label = f"{format_settings(duel.contender)} by {format_settings(duel.baseline)}"
            if duel.contender == duel.baseline:
                label = f"{format_settings(duel.contender)} by itself"
            yield Interval(label, found.estimate, found.low, found.high, found.reason or "")


def place_on_log_axis(ratio: float, reach: float) -> float:
    """Return where a ratio lies on an axis from 1/reach to reach, in per cent; what lies beyond is put at the end."""
    return 50 + 50 * max(-1.0, min(1.0, math.log(ratio) / math.log(reach)))


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(one_line, names))


def compose_notices(verification: Verification) -> tuple[Notice, ...]:
    """Return every warning of the run and the machine, each with its hint."""
    return tuple(map(split_notice, (*verification.warnings, *verification.environment.warnings)))
