"""How is the split of a step's time shown? Shares with their uncertainty, and bounds of what changes win."""

from typing import NamedTuple

from loadtune.records.report import Report
from loadtune.render.answer import Row
from loadtune.render.words import (
    NOT_MEASURED,
    format_percent,
    format_rate,
    format_ratio,
    format_seconds,
    format_settings,
    one_line,
)


class ShareRow(NamedTuple):
    """A part of the time."""

    where: str
    share: str
    error: str
    basis: str


class WhatIfRow(NamedTuple):
    """A change and its bound."""

    change: str
    bound: str
    reason: str


class AttributionView(NamedTuple):
    """The whole."""

    step: str
    settings: str
    shares: tuple[ShareRow, ...]
    what_ifs: tuple[WhatIfRow, ...]
    notes: tuple[str, ...]


def compose_attribution(report: Report) -> tuple[Row, ...]:
    """Say where a step's time goes, and what changes could win at most; nothing where it was not decomposed."""
    found = report.attribution
    if found is None or not found.shares:
        return ()
    parts = ", ".join(f"{format_percent(share.ratio)} {share.where}" for share in found.shares if share.ratio >= 0.005)
    bounds = [f"{each.change} {format_rate(each.bound_rate_per_s)}" for each in found.what_ifs if each.bound_rate_per_s]
    rows = [Row("a step", (parts,))]
    if bounds:
        rows.append(Row("what if", (f"at most, by measured ceilings: {'; '.join(bounds)}",)))
    return tuple(rows)


def compute_attribution(report: Report) -> AttributionView | None:
    """Return the split in words; None where the steps were not decomposed."""
    found = report.attribution
    if found is None or not found.shares:
        return None
    shares = tuple(
        ShareRow(
            share.where,
            format_percent(share.ratio),
            NOT_MEASURED if share.error_ratio is None else f"up to {100 * share.error_ratio:.2g} points",
            one_line(share.basis),
        )
        for share in found.shares
    )
    what_ifs = tuple(
        WhatIfRow(one_line(each.change), _bound(each.bound_rate_per_s, found.rate_per_s), one_line(each.reason or ""))
        for each in found.what_ifs
    )
    notes = tuple(map(one_line, found.notes))
    return AttributionView(format_seconds(found.step_s), format_settings(found.settings), shares, what_ifs, notes)


def _bound(bound_per_s: float | None, rate_per_s: float) -> str:
    if bound_per_s is None:
        return "no bound"
    return f"{format_rate(bound_per_s)} ({format_ratio(bound_per_s / rate_per_s)})"
