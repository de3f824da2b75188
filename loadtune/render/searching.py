"""What does a reader see of the search? Expected and measured rates, what was left out, and where the time went."""

from statistics import fmean
from typing import NamedTuple

from loadtune.records.measurement import TrialResult
from loadtune.records.report import Report
from loadtune.records.settings import Settings
from loadtune.render.words import (
    NOT_MEASURED,
    format_number,
    format_percent,
    format_seconds,
    one_line,
    other_settings,
)


class SearchRow(NamedTuple):
    """One setting: what was expected of it, and what came."""

    num_workers: str
    batch_size: str
    other: str
    expected: str
    measured: str
    note: str


class SearchView(NamedTuple):
    """The section on the search."""

    rows: tuple[SearchRow, ...]
    parts: tuple[tuple[str, str], ...]
    """Where the time went: name and seconds."""
    grid: str
    """What a full grid would have taken, in a sentence; empty where that is not known."""


def compute_search(report: Report) -> SearchView | None:
    """Return the section; None where a grid was searched, or nothing is known of the search."""
    summary = report.search
    if summary is None or summary.kind == "grid":
        return None
    measured = _measured_rates(report)
    rows = tuple(
        _compute_row(each.settings, each.expected_rate_per_s, measured.get(each.settings), each.left_out)
        for each in summary.expectations
    )
    return SearchView(rows, compute_parts(report), compose_grid(report))


def compose_grid(report: Report) -> str:
    """Say what a full grid would have taken; empty where that is not known."""
    summary = report.search
    if summary is None or summary.grid_s is None:
        return ""
    looked = len({each.settings for each in report.trials if _is_end_to_end(each)})
    return (
        f"{looked} of {summary.settings_count} settings were measured; one look at every one of them would have taken "
        f"{format_seconds(summary.grid_s)}"
    )


def compute_parts(report: Report) -> tuple[tuple[str, str], ...]:
    """Return where the time of a probe went, by name."""
    spent = dict.fromkeys(("start", "ceilings", "first looks", "further looks", "variants"), 0.0)
    spent["start"] = report.start_up_s or 0.0
    for trial in report.trials:
        if _is_end_to_end(trial):
            name = "first looks" if trial.round == 0 else "further looks"
        else:
            name = "variants" if trial.role == "variant" else "ceilings"
        spent[name] += trial.seconds_spent
    spent["duel"] = sum(duel.seconds_spent for duel in report.duels)
    spent["the rest"] = max(0.0, report.seconds_spent - sum(spent.values()))
    return tuple((name, format_seconds(seconds)) for name, seconds in spent.items() if seconds > 0)


def _measured_rates(report: Report) -> dict[Settings, float]:
    rates: dict[Settings, list[float]] = {}
    for trial in report.trials:
        if trial.rate_per_s is not None and _is_end_to_end(trial):
            rates.setdefault(trial.settings, []).append(trial.rate_per_s)
    return {settings: fmean(several) for settings, several in rates.items()}


def _is_end_to_end(trial: TrialResult) -> bool:
    return trial.role in {"grid", "baseline"}


def _compute_row(settings: Settings, expected: float | None, measured: float | None, left_out: str | None) -> SearchRow:
    note = "" if left_out is None else f"not measured: {one_line(left_out)}"
    unknown = NOT_MEASURED if measured is None else ""
    if expected is not None and measured is not None:
        note = f"{format_percent(measured / expected)} of what was expected"
    return SearchRow(
        num_workers=str(settings.num_workers),
        batch_size=str(settings.batch_size),
        other=", ".join(other_settings(settings)),
        expected=unknown if expected is None else format_number(expected),
        measured=NOT_MEASURED if measured is None else format_number(measured),
        note=note,
    )
