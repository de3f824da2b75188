"""Do probes that were asked the same agree? Pure arithmetic over the rows that `coverage` saved."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from benchmarks.record import Criterion, Row
from loadtune.records.report import Verdict
from loadtune.stats import is_tied, paired_ratio_interval

OTHERS_MIN = 3
"""Probes that make a pooled truth for another; with two, their own noise decides."""
SHARE_MIN = 0.9
"""Of the intervals that hold and of the choices that agree. The intervals claim 0.95."""
JUDGED_SHARE_MIN = 0.5
"""Of the probes, whose intervals could be judged: with fewer, probes that state nothing would keep the promise."""
SAME_FALSE_MAX = 3
"""False FASTER of 60 duels: 2.5 % each would give 1.5, and seven in a hundred such runs exceed 3."""
FASTER_SHARE_MIN = 0.9
"""Of the duels with a true 15 % that say so: 18 of 20."""
TRUE_RATIO = 1.15
"""How much faster the faster device is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one probe said."""

    cell: str
    neighbour: str
    verdict: str
    workers: int | None
    """Recommended num_workers; None: the probe gave no answer."""
    over: int | None = None
    """num_workers of the baseline."""
    estimate: float | None = None
    """Figures of the speed-up; None where none was stated, or none to be trusted."""
    low: float | None = None
    high: float | None = None
    rates: dict[tuple[int, int], float] = field(default_factory=dict)
    """Screening rates by num_workers and round."""


@dataclass(slots=True)
class Tally:
    """How many stated intervals held the pooled truth."""

    held: int = 0
    judged: int = 0
    """Stated, and a truth could be pooled."""
    untold: int = 0
    """Stated, and too few other probes compared the same settings."""
    without: int = 0
    """Probes that stated none to be trusted."""


def read_said(rows: Sequence[Row]) -> list[Said]:
    """Return what each probe said, from its rows."""
    rates: dict[tuple[str, int], dict[tuple[int, int], float]] = {}
    for row in rows:
        if "round" in row:
            own = rates.setdefault((row["variant"], row["repeat"]), {})
            own[row["num_workers"], row["round"]] = row["value"]
    found = []
    for row in rows:
        if row.get("part") == "probes" and row["quantity"] == "speed-up":
            is_trusted = row["value"] is not None and row["reason"] is None
            figures = (row["value"], row["low"], row["high"]) if is_trusted else (None, None, None)
            found.append(
                Said(
                    cell=row["cell"],
                    neighbour=row["neighbour"],
                    verdict=row["verdict"],
                    workers=row.get("workers"),
                    over=row.get("over"),
                    estimate=figures[0],
                    low=figures[1],
                    high=figures[2],
                    rates=rates.get((row["variant"], row["repeat"]), {}),
                )
            )
    return found


def pooled_truth(said: Sequence[Said], number: int) -> float | None:
    """Return the mean log speed-up, as a ratio, that the other probes of the same question estimated.

    None where fewer than `OTHERS_MIN` of them compared the same settings.
    """
    own = said[number]
    logs = [
        math.log(each.estimate)
        for place, each in enumerate(said)
        if place != number
        and each.estimate is not None
        and (each.cell, each.neighbour, each.workers, each.over) == (own.cell, own.neighbour, own.workers, own.over)
    ]
    return math.exp(fmean(logs)) if len(logs) >= OTHERS_MIN else None


def tally_intervals(said: Sequence[Said]) -> Tally:
    """Count the intervals that hold their pooled truth; the ends belong to them."""
    tally = Tally()
    for number, each in enumerate(said):
        if each.estimate is None or each.low is None or each.high is None:
            tally.without += 1
            continue
        truth = pooled_truth(said, number)
        if truth is None:
            tally.untold += 1
        else:
            tally.judged += 1
            tally.held += each.low <= truth <= each.high
    return tally


def most_frequent(said: Sequence[Said]) -> int | None:
    """Return the num_workers recommended most often; of several the fewest, None where nothing was."""
    counts = Counter(each.workers for each in said if each.workers is not None)
    return min(counts, key=lambda workers: (-counts[workers], workers)) if counts else None


def is_as_good(said: Sequence[Said], workers: int, other: int) -> bool:
    """Say whether one setting is tied with another by the tie rule, over the rounds of all these probes."""
    pairs = [
        (rate, each.rates[other, number])
        for each in said
        for (own, number), rate in each.rates.items()
        if own == workers and (other, number) in each.rates
    ]
    if len(pairs) < 2:
        return False
    interval = paired_ratio_interval([ours for ours, _ in pairs], [theirs for _, theirs in pairs])
    assert interval.estimate is not None
    assert interval.low is not None
    return is_tied(interval.estimate, interval.low)


def count_agreeing(said: Sequence[Said]) -> int:
    """Count the probes whose choice is the most frequent of their cell and neighbour, or tied with it."""
    total = 0
    for group in by_question(said).values():
        usual = most_frequent(group)
        for each in group:
            if each.workers is not None and usual is not None:
                total += each.workers == usual or is_as_good(group, each.workers, usual)
    return total


def by_question(said: Sequence[Said]) -> dict[tuple[str, str], list[Said]]:
    """Return the probes by cell and neighbour."""
    groups: dict[tuple[str, str], list[Said]] = {}
    for each in said:
        groups.setdefault((each.cell, each.neighbour), []).append(each)
    return groups


def judge(record: dict[str, Any], probes: int, same: int, faster: int) -> list[Criterion]:
    """Return what the rows show of the promises; a part counts once it has all of so many probes and duels."""
    said = read_said(record["rows"])
    tally = tally_intervals(said)
    agreeing = count_agreeing(said)
    is_whole = len(said) >= probes
    has_judged = is_whole and tally.judged >= JUDGED_SHARE_MIN * len(said)
    duels = {part: _duels(record, part) for part in ("same", "faster")}
    shown = {part: sum(row["verdict"] == Verdict.FASTER for row in rows) for part, rows in duels.items()}
    holding = sum(row["low"] is not None and row["low"] <= TRUE_RATIO <= row["high"] for row in duels["faster"])
    of_same, of_faster = len(duels["same"]), len(duels["faster"])
    missing = f"not judged {tally.untold}, none stated {tally.without}"
    return [
        _share("intervals that hold the pooled truth", tally.held, tally.judged, SHARE_MIN, has_judged, missing),
        _share("choices that agree", agreeing, len(said), SHARE_MIN, is_whole, f"{len(said)} of {probes} probes"),
        Criterion(
            "FASTER, a setting against itself",
            f"at most {SAME_FALSE_MAX} of {same} duels ({of_same} held)",
            float(shown["same"]) if of_same else None,
            None,
            None,
            (shown["same"] <= SAME_FALSE_MAX) if of_same >= same else None,
        ),
        _share("FASTER, 15 % faster", shown["faster"], of_faster, FASTER_SHARE_MIN, of_faster >= faster, "duels"),
        Criterion(
            "intervals that hold 1.15, 15 % faster",
            f"reported only ({of_faster} duels)",
            float(holding) if of_faster else None,
            None,
            None,
            None,
        ),
    ]


def _share(name: str, count: int, of: int, least: float, is_whole: bool, note: str) -> Criterion:
    target = f"at least {100 * least:g} % ({count} of {of}; {note})"
    share = count / of if of else None
    return Criterion(name, target, share, None, None, share >= least if is_whole and share is not None else None)


def _duels(record: dict[str, Any], part: str) -> list[Row]:
    return [row for row in record["rows"] if row.get("part") == part and row["quantity"] == "ratio"]


def tabulate(record: dict[str, Any]) -> list[str]:
    """Return a line for each question that probes were asked, and for each kind of duel."""
    lines = []
    for (cell, neighbour), group in by_question(read_said(record["rows"])).items():
        tally, usual = tally_intervals(group), most_frequent(group)
        estimates = [each.estimate for each in group if each.estimate is not None]
        middle = f"{median(estimates):.3f}x [{min(estimates):.3f} {max(estimates):.3f}]" if estimates else "no speed-up"
        lines.append(
            f"{cell + ', ' + neighbour:28} {len(group):3} probes, {_count_verdicts(each.verdict for each in group)}; "
            f"use {usual}: {count_agreeing(group)} agree; {middle}; "
            f"{tally.held} of {tally.judged} hold, {tally.untold} not judged, {tally.without} without"
        )
    duels = [row for part in ("same", "faster") for row in _duels(record, part)]
    for variant in dict.fromkeys(row["variant"] for row in duels):
        own = [row for row in duels if row["variant"] == variant]
        truth = TRUE_RATIO if own[0]["part"] == "faster" else 1.0
        held = sum(row["low"] is not None and row["low"] <= truth <= row["high"] for row in own)
        verdicts = _count_verdicts(row["verdict"] for row in own)
        lines.append(f"{variant:28} {len(own):3} duels, {verdicts}; {held} hold {truth:g}")
    return lines


def _count_verdicts(verdicts: Any) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(Counter(verdicts).items()))
