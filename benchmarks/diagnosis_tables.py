"""What does `diagnosis` show? Tables of every block that was run, pure: right and kept by kind, and who said what."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmarks.diagnosis_faults import FAULTS
from benchmarks.diagnosis_scores import (
    Ask,
    alarms,
    askers,
    block_of,
    clopper_pearson,
    is_harmless,
    is_pair,
    is_right,
    is_single,
    kept,
    names_both,
    right,
)
from benchmarks.record import Row

NOT_RUN = {
    "TraceML": "it times a training script's own CUDA events, which a replayed device does not have; its threshold is "
    "held against the shares that loadtune's trial measured",
    "loadtune 0.3.0 from PyPI": "it owns the same package name and needs an environment of its own, as in "
    "benchmarks.tuning, and a training of every unit there as well would double the hours; its thresholds are applied",
}


def tabulate(rows: Sequence[Row]) -> list[str]:
    """Return the tables of every block that was run: right and kept by kind, and who said what of what."""
    asked = askers(rows)
    lines = []
    for block in sorted({block_of(row) for row in rows}):
        own = [row for row in rows if block_of(row) == block]
        lines += [f"seeds {block} to {block + 9}, rules {', '.join(sorted({row['rules'] for row in own}))}"]
        lines += _table_kinds(own, asked)
        for who, ask in asked.items():
            lines += ["", f"confusion, {who}", *_table_confusion(own, ask)]
        lines += ["", *_list_left_out(own), ""]
    return [*lines, *(f"{name}: not run: {reason}" for name, reason in NOT_RUN.items())]


def _table_kinds(rows: Sequence[Row], asked: dict[str, Ask]) -> list[str]:
    heads = "".join(f"{who + ' right':>18}{'kept':>8}" for who in asked)
    lines = [f"{'material single faults':28}{'cost':>6}{heads}"]
    singles = list(filter(is_single, rows))
    for kind, fault in FAULTS.items():
        own = [row for row in singles if row["kinds"] == [kind]]
        if own:
            mark = kind + (" (by construction)" if fault.by_construction else "")
            lines.append(f"{mark:30}{fmean(row['cost'] for row in own):4.2f}{_cells(own, asked)}")
    if singles:
        lines.append(f"{'all':34}{_cells(singles, asked)}")
        count = sum(map(is_right, singles))
        low, high = clopper_pearson(count, len(singles))
        lines.append(f"{count} of {len(singles)} right: {count / len(singles):.3f} [{low:.3f} {high:.3f}]")
    for name, test, holds in (
        ("pairs, both named", is_pair, names_both),
        ("healthy and immaterial, false alarms", is_harmless, lambda row: bool(alarms(row))),
    ):
        own = list(filter(test, rows))
        lines.append(f"{name}: {sum(map(holds, own))} of {len(own)}")
    return lines


def _cells(rows: Sequence[Row], asked: dict[str, Ask]) -> str:
    cells = ""
    for ask in asked.values():
        said = [(row, ask(row)) for row in rows]
        held = [each for row, rule in said if (each := kept(row, rule)) is not None]
        share = sum(rule in right(row) for row, rule in said)
        cells += f"{f'{share} of {len(rows)}':>18}{f'{sum(held)}/{len(held)}':>8}"
    return cells


def _table_confusion(rows: Sequence[Row], ask: Ask) -> list[str]:
    """Return a line a fault: what was said of it, how often, the right names marked with a star."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if is_single(row):
            groups.setdefault(row["kinds"][0], []).append(row)
        elif is_harmless(row):
            groups.setdefault(f"({row['strength']})", []).append(row)
    lines = []
    for name, own in groups.items():
        said: Counter[Any] = Counter(ask(row) for row in own)
        words = (f"{rule}{'*' if rule in right(own[0]) else ''} {count}" for rule, count in said.most_common())
        lines.append(f"  {name:18} {', '.join(words)}")
    return lines


def _list_left_out(rows: Sequence[Row]) -> list[str]:
    """Return how many rows are not scored, and why."""
    reasons: Counter[str] = Counter()
    for row in rows:
        if row["not_run"] is not None:
            reasons[f"{'+'.join(row['kinds'])}: {row['not_run']}"] += 1
        elif row["is_void"]:
            reasons["void: others kept the machine busy"] += 1
        elif not (is_single(row) or is_pair(row) or is_harmless(row)):
            reasons[f"{'+'.join(row['kinds'])}: the cost is not what {row['strength']} means"] += 1
    return [f"not scored, {count}: {reason}" for reason, count in reasons.items()]
