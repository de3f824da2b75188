"""How is a chart drawn as inline SVG?

The colours are CSS variables of the page, so that one drawing serves a light and a dark theme. The same
numbers give the same bytes.
"""

import contextlib
import io
import math
import re
from collections.abc import Iterator
from html import escape
from typing import Any, NamedTuple

from loadtune.render.annealing import AnnealingChart
from loadtune.render.charts import DuelChart, RateLine, ThroughputChart

TICK_GAP_RATIO = 0.045
"""Smallest gap between labelled ticks, as a share of the axis. Below it two-digit labels meet."""

TICKS_MAX = 7
"""More labels on the ratio axis of the narrow drawing would touch."""

_INK, _FAINT = "#010203", "#010204"
_SERIES = ("#010301", "#010302", "#010303", "#010304", "#010305", "#010306")
_MARKERS = "os^DvP"
_CSS_COLORS = {_INK: "currentColor", _FAINT: "var(--faint)"} | {
    color: f"var(--series-{index})" for index, color in enumerate(_SERIES, start=1)
}
"""Colours that nothing else uses stand for CSS values while matplotlib draws, and are replaced in its SVG."""

_STYLE = {
    "svg.hashsalt": "loadtune",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
}


class Size(NamedTuple):
    """Size of a drawing in inches; an inch holds 72 units of the SVG."""

    name: str
    width_in: float
    height_in: float


WIDE = Size("wide", 10.0, 4.0)
NARROW = Size("narrow", 4.6, 4.4)
"""For a telephone: its letters stay legible, where the wide drawing's would shrink to a third."""


def draw_throughput(chart: ThroughputChart, size: Size = WIDE) -> str:
    """Return the main chart as inline SVG."""
    with _styled():
        return _draw_throughput(chart, size)


def _draw_throughput(chart: ThroughputChart, size: Size) -> str:
    figure, axes = _make_figure(size)
    if chart.tie_band_per_s is not None:
        axes.axhspan(*chart.tie_band_per_s, color=_SERIES[0], alpha=0.14, linewidth=0, label="tie band")
    if chart.device_rate_per_s is not None:
        batch = "" if chart.device_batch_size is None else f", batch_size={chart.device_batch_size}"
        label = f"device alone{batch}"
        axes.axhline(chart.device_rate_per_s, color=_INK, linewidth=1, linestyle=":", label=label)
    for index, line in enumerate(chart.lines):
        _draw_line(axes, line, index)
    _draw_failed(axes, chart)
    _draw_marks(axes, chart)
    _set_worker_axis(axes, chart, size)
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("samples/s")
    _add_legend(figure, axes, size)
    return _to_svg(
        figure, f"throughput-{size.name}", "Throughput against num_workers; the trial table holds the numbers"
    )


def _draw_line(axes: Any, line: RateLine, index: int) -> None:
    workers = [point.num_workers for point in line.points]
    rates = [point.rate_per_s for point in line.points]
    below = [point.rate_per_s - point.low_per_s for point in line.points]
    above = [point.high_per_s - point.rate_per_s for point in line.points]
    axes.errorbar(
        workers,
        rates,
        yerr=[below, above],
        color=_SERIES[index % len(_SERIES)],
        marker=_MARKERS[index % len(_MARKERS)],
        linestyle="-" if index < len(_SERIES) else "--",
        markersize=5,
        linewidth=1.6,
        elinewidth=1,
        capsize=2.5,
        label=f"batch_size={line.batch_size}",
    )


def _draw_failed(axes: Any, chart: ThroughputChart) -> None:
    """Put a cross at the foot for every setting without a rate, several of one count above each other."""
    sizes = [line.batch_size for line in chart.lines]
    stacked: dict[int, int] = {}
    for point in chart.failed:
        level = stacked.get(point.num_workers, 0)
        stacked[point.num_workers] = level + 1
        known = point.batch_size in sizes
        color = _SERIES[sizes.index(point.batch_size) % len(_SERIES)] if known else _INK
        axes.plot(
            point.num_workers,
            0.045 * level,
            marker="x",
            markersize=7,
            markeredgewidth=2,
            color=color,
            linestyle="",
            clip_on=False,
            zorder=5,
            transform=axes.get_xaxis_transform(),
            label=None if sum(stacked.values()) > 1 else "no result",
        )


def _draw_marks(axes: Any, chart: ThroughputChart) -> None:
    """Mark the two settings of the verdict by shape and word: a square for now, a ring for use."""
    marks = [(chart.baseline, "s", "now", (12, -18)), (chart.chosen, "o", chart.chosen_word, (-8, -24))]
    for point, shape, word, offset in marks:
        if point is None:
            continue
        at = (point.num_workers, point.rate_per_s)
        ring = {"markersize": 15, "markeredgewidth": 1.8, "markerfacecolor": "none", "markeredgecolor": _INK}
        axes.plot(*at, marker=shape, linestyle="", zorder=6, **ring)
        axes.annotate(word, at, xytext=offset, textcoords="offset points", fontweight="bold", zorder=7)


def _set_worker_axis(axes: Any, chart: ThroughputChart, size: Size) -> None:
    """Label the measured worker counts, and mark the usable cores where they lie within them."""
    points = [point.num_workers for line in chart.lines for point in line.points]
    measured = sorted({*points, *(point.num_workers for point in chart.failed)})
    first, last = measured[0], measured[-1]
    room = 0.05 * max(last - first, 1)
    axes.set_xlim(first - room, last + room)
    if first <= chart.usable_cores <= last:
        axes.axvline(chart.usable_cores, color=_INK, linewidth=1, linestyle="--", label="usable cores")
    axes.set_xticks(choose_ticks(measured, TICK_GAP_RATIO * WIDE.width_in / size.width_in))
    axes.set_xlabel("num_workers")


def choose_ticks(values: list[int], gap_ratio: float) -> list[int]:
    """Return the sorted values that can be labelled without running into each other; the ends always can."""
    span = max(values[-1] - values[0], 1)
    ticks = values[:1]
    for value in values[1:-1]:
        if min(value - ticks[-1], values[-1] - value) >= gap_ratio * span:
            ticks.append(value)
    return ticks if len(values) == 1 else [*ticks, values[-1]]


def draw_duel(chart: DuelChart, size: Size = WIDE) -> str:
    """Return the slice pairs of the duel as inline SVG."""
    with _styled():
        return _draw_duel(chart, size)


def _draw_duel(chart: DuelChart, size: Size) -> str:
    figure, axes = _make_figure(size)
    axes.set_yscale("log")
    axes.axhline(1.0, color=_INK, linewidth=1, linestyle="--", label="as fast as now")
    if chart.low is not None and chart.high is not None:
        axes.axhspan(chart.low, chart.high, color=_SERIES[0], alpha=0.14, linewidth=0, label="95 % interval")
    if chart.estimate is not None:
        axes.axhline(chart.estimate, color=_SERIES[0], linewidth=1.6, label="estimate")
    for restart in sorted({pair.restart for pair in chart.pairs}):
        for is_flagged in (False, True):
            _draw_pairs(axes, chart, restart, is_flagged)
    _set_ratio_axis(axes, chart)
    axes.set_xlim(0.5, len(chart.pairs) + 0.5)
    axes.set_xticks(choose_ticks([pair.number for pair in chart.pairs], TICK_GAP_RATIO))
    axes.set_xlabel("slice pair, in order of time")
    axes.set_ylabel("times as fast as now")
    _add_legend(figure, axes, size)
    return _to_svg(figure, f"duel-{size.name}", "Speed-up of each slice pair of the duel")


def _draw_pairs(axes: Any, chart: DuelChart, restart: int, is_flagged: bool) -> None:
    pairs = [pair for pair in chart.pairs if pair.restart == restart and pair.is_flagged == is_flagged]
    if pairs:
        color = _SERIES[restart % len(_SERIES)]
        axes.plot(
            [pair.number for pair in pairs],
            [pair.ratio for pair in pairs],
            marker=_MARKERS[restart % len(_MARKERS)],
            markersize=6,
            color=color,
            markerfacecolor="none" if is_flagged else color,
            linestyle="",
            label=f"start {restart + 1}" + (", disturbed" if is_flagged else ""),
        )


def _set_ratio_axis(axes: Any, chart: DuelChart) -> None:
    """Label a log axis that may span a few per cent or many times, with round ratios."""
    from matplotlib.ticker import FixedLocator, NullLocator

    known = [value for value in (1.0, chart.low, chart.high, chart.estimate) if value is not None]
    values = [*known, *(pair.ratio for pair in chart.pairs)]
    room = max((max(values) / min(values)) ** 0.08, 1.01)
    low, high = min(values) / room, max(values) * room
    ticks = choose_ratio_ticks(low, high)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticklabels([f"{tick:g}x" for tick in ticks])


def draw_annealing(chart: AnnealingChart, size: Size = WIDE) -> str:
    """Return the learning rate against samples seen, before and after, as inline SVG."""
    with _styled():
        figure, axes = _make_figure(size)
        for index, (batch_size, rates) in enumerate(zip(chart.batch_sizes, chart.rates, strict=True)):
            axes.plot(chart.samples, rates, color=_SERIES[index], linewidth=1.8, label=f"batch_size={batch_size}")
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, chart.samples[-1])
        axes.ticklabel_format(axis="x", useOffset=False, style="plain")
        axes.locator_params(axis="x", nbins=4 if size is NARROW else 8)
        axes.set_xlabel("samples seen")
        axes.set_ylabel("learning rate by the one now" if chart.is_relative else "learning rate")
        _add_legend(figure, axes, size)
        return _to_svg(
            figure,
            f"annealing-{chart.batch_sizes[1]}-{size.name}",
            "Learning rate against samples seen, before and after",
        )


def choose_ratio_ticks(low: float, high: float) -> list[float]:
    """Return round ratios between two positive bounds: even steps up to a factor of 5, else 1, 2, 5 ..."""
    if high / low > 5:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [tick for power in decades for tick in (10.0**power * n for n in (1, 2, 5)) if low <= tick <= high]
    finest = (high - low) / TICKS_MAX
    unit = 10.0 ** math.floor(math.log10(finest))
    step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= finest)
    return [float(f"{step * n:.6g}") for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


@contextlib.contextmanager
def _styled() -> Iterator[None]:
    """Draw in our own style, untouched by the user's matplotlibrc, and leave theirs as it was."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def _make_figure(size: Size) -> tuple[Any, Any]:
    """Return a figure with one pair of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size.width_in, size.height_in), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis="y", color=_FAINT, alpha=0.35, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _add_legend(figure: Any, axes: Any, size: Size) -> None:
    columns = 6 if size is WIDE else 2
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(columns, len(labels)), fontsize=9)


def _to_svg(figure: Any, name: str, described: str) -> str:
    """Return the figure as an SVG element whose ids are its own and whose colours are the page's."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", _shorten(svg[svg.index("<svg") :]))
    for color, value in _CSS_COLORS.items():
        svg = svg.replace(color, value)
    view = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg class="chart {name.rpartition("-")[2]}" role="img" aria-label="{escape(described)}"'
    xlink = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return re.sub(r"<svg[^>]*>", f"{opening} {view.group() if view else ''} {xlink}>", svg, count=1).strip()


def _round(match: re.Match[str]) -> str:
    return f"{float(match.group()):.2f}"


def _shorten(svg: str) -> str:
    """Drop what a page does not need: metadata, the global style, unused ids, digits below 0.01 units."""
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match.group() if match[1] in used else "", svg)
    # In attributes only: between the tags stand the labels, whose 0.014 is not 0.01.
    svg = re.sub(r'="[^"<>]*"', lambda match: re.sub(r"\d+\.\d{3,}", _round, match.group()), svg)
    return re.sub(r"\s*\n\s*", "\n", svg)
