"""What does a larger batch make of the learning rate and its schedule? A picture, and the code to paste.

The schedule is the user's; where it is not known, DeepLab's polynomial one stands for it, and the page says so.
"""

from typing import NamedTuple

from loadtune.records.report import Alternative, Report
from loadtune.schedule.curve import Polynomial, epochs
from loadtune.schedule.plan import SchedulePlan, compute_plan

POLY_POWER = 0.9
"""DeepLab's (arXiv 1606.00915, section 4.1)."""
DRAWN_POINTS = 60
"""Of a curve: enough for a smooth line, and two kilobytes."""


class AnnealingChart(NamedTuple):
    """Learning rate against samples seen, before and after."""

    batch_sizes: tuple[int, int]
    samples: tuple[int, ...]
    rates: tuple[tuple[float, ...], tuple[float, ...]]


class AnnealingView(NamedTuple):
    """The section of the page: which answer it belongs to, its chart and its code."""

    chart: AnnealingChart
    factor: str
    rule: str
    code: tuple[str, ...]
    warnings: tuple[str, ...]


def compute_annealing(report: Report) -> AnnealingView | None:
    """Return the section for the larger batch that the report offers; None without one, or without --lr."""
    alternative = _find_larger(report)
    count, rate = report.dataset.sample_count, report.request.workload.learning_rate
    if alternative is None or not count or rate is None:
        return None
    told = alternative.learning_rate
    length = report.request.epochs
    plan = compute_plan(
        Polynomial(total=float(length), power=POLY_POWER, unit=epochs(count)),
        rate=rate,
        epoch_count=length,
        samples_per_epoch=count,
        batch_size=told.base_batch_size,
        new_batch_size=told.batch_size,
        optimizer=report.request.workload.optimizer,
    )
    return AnnealingView(_compute_chart(plan), f"{told.factor:.3g}", told.rule, plan.sides[-1].code, plan.warnings)


def _find_larger(report: Report) -> Alternative | None:
    found = () if report.recommendation is None else report.recommendation.alternatives
    return next((each for each in found if each.learning_rate.factor != 1), None)


def _compute_chart(plan: SchedulePlan) -> AnnealingChart:
    total = round(plan.epochs * plan.samples_per_epoch)
    samples = tuple(round(total * place / DRAWN_POINTS) for place in range(DRAWN_POINTS + 1))
    now, new = plan.sides
    curve = now.schedule
    ratios = [curve.ratio_at(each) if isinstance(curve, Polynomial) else 1.0 for each in samples]
    return AnnealingChart(
        batch_sizes=(now.batch_size, new.batch_size),
        samples=samples,
        rates=(tuple(now.learning_rate * r for r in ratios), tuple(new.learning_rate * r for r in ratios)),
    )
