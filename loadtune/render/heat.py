"""How fast is each pair of num_workers and batch_size? A table whose cells are shaded by their rate."""

from typing import NamedTuple

from loadtune.records.report import Report
from loadtune.render.charts import compute_throughput_chart
from loadtune.render.words import format_number

LEVELS = 9
"""Shades above none; more cannot be told apart."""


class HeatCell(NamedTuple):
    """One setting; an empty text where it has no rate."""

    text: str
    level: int
    """0 (slowest, or no rate) to `LEVELS` (the fastest of all)."""
    marks: tuple[str, ...]
    """`now`, and `use` or `candidate`."""


class HeatRow(NamedTuple):
    """All worker counts at one batch size."""

    batch_size: int
    cells: tuple[HeatCell, ...]


class HeatTable(NamedTuple):
    """Rates by batch_size and num_workers, in samples a second."""

    num_workers: tuple[int, ...]
    rows: tuple[HeatRow, ...]


def compute_heat(report: Report) -> HeatTable | None:
    """Return the table; None with fewer than two of either axis, where the chart and the trial table say it all."""
    chart = compute_throughput_chart(report)
    if chart is None:
        return None
    rates = {
        (point.num_workers, line.batch_size): (point, point.rate_per_s) for line in chart.lines for point in line.points
    }
    failed = {(point.num_workers, point.batch_size): point.state for point in chart.failed}
    workers = sorted({count for count, _ in (*rates, *failed)})
    sizes = sorted({size for _, size in (*rates, *failed)})
    if len(workers) < 2 or len(sizes) < 2:
        return None
    fastest = max(rate for _, rate in rates.values())

    def cell(count: int, size: int) -> HeatCell:
        if (count, size) not in rates:
            return HeatCell(failed.get((count, size), ""), 0, ())
        point, rate = rates[count, size]
        named = {"now": chart.baseline, chart.chosen_word: chart.chosen}
        marks = tuple(word for word, marked in named.items() if marked is point)
        return HeatCell(format_number(rate), round(LEVELS * rate / fastest), marks)

    return HeatTable(
        tuple(workers), tuple(HeatRow(size, tuple(cell(count, size) for count in workers)) for size in sizes)
    )
