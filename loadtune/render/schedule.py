"""What does a schedule look like in a terminal? Words, a chart, a table, and what to paste."""

from collections.abc import Callable

from rich.console import Console

from loadtune.render.answer import Notice, Row
from loadtune.render.curve_chart import BOTH_MARK, MARKS, draw_curves
from loadtune.render.lines import INDENT, emphasise, format_row, format_warnings, print_lines
from loadtune.render.words import format_count
from loadtune.schedule.plan import Point, SchedulePlan, Side
from loadtune.schedule.words import join_numbers

COLUMN_GAP = 2
STEPPED_BY_EPOCH = "stepped once an epoch"
"""How the words of a schedule say so."""


def plan_lines(plan: SchedulePlan, width: int = 80, color: bool = False) -> list[str]:
    """Return a plan as lines without line ends.

    Args:
        plan: What to show.
        width: Columns to fill. Code is never wrapped, so that it can be pasted.
        color: Set labels bold with ANSI codes. The words are the same without.
    """
    lines: list[str] = []
    for row in _compose_rows(plan):
        lines += format_row(row, width)
    if color:
        lines = [emphasise(line) for line in lines]
    if plan.points:
        lines += ["", *_draw_chart(plan, width), "", *_format_table(plan, width)]
    lines += format_warnings([Notice(warning, "") for warning in plan.warnings], width)
    lines += ["", "paste", *(" " * INDENT + line for line in plan.sides[-1].code)]
    return lines


def print_plan(plan: SchedulePlan, console: Console) -> None:
    """Print a plan to a rich console, in colour where that console shows any."""
    print_lines(plan_lines(plan, width=console.width, color=console.color_system is not None), console)


def _compose_rows(plan: SchedulePlan) -> list[Row]:
    first, last = plan.sides[0], plan.sides[-1]
    rows = [Row("schedule", (first.text,)), Row("now", (_compose_side(first),))]
    if last is not first:
        told = [_compose_side(last), f"rate times {plan.factor:.6g}: {plan.rule}"]
        if last.text != first.text:
            told.append(f"with a warm-up of its own: {last.text}")
        else:
            when = "at equal samples seen" if plan.points else "after the same metrics"
            told.append(f"{when} the rate is the old one times that, at any point of the training")
        rows.append(Row("new", tuple(told)))
    if first.constants:
        lines = _compose_constants(first, last)
        if STEPPED_BY_EPOCH in first.text:
            lines.append(f"what is {STEPPED_BY_EPOCH} counts epochs, for every batch alike")
        rows.append(Row("per step", tuple(lines)))
    if not plan.points:
        rows.append(Row("chart", ("none: when the rate falls depends on the metric, so it is not known in advance",)))
    return rows


def _compose_side(side: Side) -> str:
    steps = format_count(side.steps_per_epoch)
    return f"batch {format_count(side.batch_size)}, learning rate {side.learning_rate:.6g}, {steps} steps an epoch"


def _compose_constants(first: Side, last: Side) -> list[str]:
    """Return what a scheduler stepped each iteration needs, before and after where that differs."""
    if last is first or len(first.constants) != len(last.constants):
        return [f"{each.name} {join_numbers(each.values)}" for each in last.constants]
    lines = []
    for old, new in zip(first.constants, last.constants, strict=True):
        change = "" if old.values == new.values else f" -> {join_numbers(new.values)}"
        lines.append(f"{old.name} {join_numbers(old.values)}{change}")
    return lines


def _draw_chart(plan: SchedulePlan, width: int) -> list[str]:
    legend = [f"{mark} {_name(side)}" for mark, side in zip(MARKS, plan.sides, strict=False)]
    if len(legend) > 1:
        legend.append(f"{BOTH_MARK} both")
    end = plan.epochs * plan.samples_per_epoch
    curves = [_rate_of(side) for side in plan.sides]
    lines = draw_curves(curves, end, width, end_label=f"{plan.epochs:g} epochs, {format_count(round(end))} samples")
    return [f"learning rate   {'   '.join(legend)}", *lines]


def _rate_of(side: Side) -> Callable[[float], float]:
    curve = side.schedule
    return lambda samples: side.learning_rate * curve.ratio_at(samples)  # type: ignore[union-attr]


def _name(side: Side) -> str:
    return f"batch {format_count(side.batch_size)}"


def _format_table(plan: SchedulePlan, width: int) -> list[str]:
    """Return the rates at the plan's points; the step columns are left out where they would not fit."""
    names = [_name(side) for side in plan.sides]
    head = ["epoch", "samples", *(f"rate, {name}" for name in names), *(f"step, {name}" for name in names)]
    rows = [head, *(_format_point(point) for point in plan.points)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    shown = len(head)
    if sum(widths) + COLUMN_GAP * len(head) > width:
        shown -= len(names)
    gap = " " * COLUMN_GAP
    return [gap + gap.join(text.rjust(widths[column]) for column, text in enumerate(row[:shown])) for row in rows]


def _format_point(point: Point) -> list[str]:
    rates = [f"{rate:.4g}" for rate in point.learning_rates]
    steps = [f"{step:,.1f}".removesuffix(".0") for step in point.steps]
    return [f"{point.epoch:.4g}", format_count(point.samples), *rates, *steps]
