"""What does a report look like as a page? The answer, charts, tables and machine, arranged for its template."""

from typing import Any, NamedTuple

from markupsafe import Markup

from loadtune.advice.pages import BY_RULE, Page
from loadtune.records.report import Finding, Report
from loadtune.render.annealing import AnnealingChart, compute_annealing
from loadtune.render.answer import (
    Row,
    compose_alternatives,
    compose_answer,
    compose_dataset,
    compose_device,
    compose_headline,
    compose_speedup,
    compose_warnings,
    compose_why,
)
from loadtune.render.attributing import compute_attribution
from loadtune.render.charts import compute_duel_chart, compute_throughput_chart
from loadtune.render.commands import compose_command
from loadtune.render.drawing import NARROW, WIDE, draw_annealing, draw_duel, draw_throughput
from loadtune.render.explaining import describe_threshold
from loadtune.render.gpu import compose_gpu_use
from loadtune.render.heat import compute_heat
from loadtune.render.page import render_page
from loadtune.render.pasting import compose_paste, compose_paste_label
from loadtune.render.readings import compose_missing
from loadtune.render.searching import compute_search
from loadtune.render.tables import (
    EvidenceRow,
    compute_environment,
    compute_evidence,
    compute_request,
    compute_step_rows,
    compute_trial_table,
)
from loadtune.render.traces import compute_traces
from loadtune.render.words import format_device, format_settings, format_worth, one_line


class AnswerRow(NamedTuple):
    """One row of the verdict card; `bar_percent` compares the rates of now, use and ceiling."""

    label: str
    lines: tuple[str, ...]
    bar_percent: float | None


class Lead(NamedTuple):
    """The speed-up in large letters: its figure, and what it is over."""

    figure: str
    rest: str


class FindingView(NamedTuple):
    """A finding with its numbers in words, and the page of its rule."""

    finding: Finding
    evidence: tuple[EvidenceRow, ...]
    worth: str
    page: Page | None
    """None: of a rule that this version does not know."""
    thresholds: tuple[str, ...]


def render_html(report: Report) -> str:
    """Return the whole page; the same report gives the same text, which can always be written as UTF-8."""
    return render_page("report", report, _compute_context(report))


def _compute_context(report: Report) -> dict[str, Any]:
    """Return all that the template shows."""
    recommendation = report.recommendation
    return {
        "report": report,
        "title": _compute_title(report),
        "is_replayed": report.request.device.kind == "replay",
        "is_cpu": report.request.device.kind == "cpu",
        "device_name": format_device(report.request.device),
        "device": compose_device(report),
        "dataset": compose_dataset(report.dataset),
        "headline": compose_headline(report),
        "verdict": report.status if recommendation is None else recommendation.verdict.value,
        "lead": _compute_lead(report),
        "answer": _compute_answer_rows(report),
        "paste_label": None if recommendation is None else compose_paste_label(report),
        "paste": compose_paste(report),
        "warnings": compose_warnings(report),
        "reasons": compose_why(report, with_findings=False),
        "alternatives": compose_alternatives(report),
        "findings": [_view_finding(finding) for finding in report.findings],
        "attribution": compute_attribution(report),
        "trials": compute_trial_table(report),
        "missing": compose_missing(report.readings),
        "steps": compute_step_rows(report),
        "heat": compute_heat(report),
        "traces": compute_traces(report),
        "search": compute_search(report),
        "annealing": [(view, _draw_annealing(view.chart)) for view in compute_annealing(report)],
        "gpu_use": compose_gpu_use(report),
        "environment": compute_environment(report.environment),
        "request": compute_request(report),
        "command": compose_command(report),
        **_compute_drawings(report),
    }


def _view_finding(finding: Finding) -> FindingView:
    page = BY_RULE.get(finding.rule)
    thresholds = () if page is None else tuple(map(describe_threshold, page.thresholds))
    return FindingView(finding, compute_evidence(finding), format_worth(finding.worth_per_s).strip(), page, thresholds)


def _compute_title(report: Report) -> str:
    """Return a title that tells several open reports apart."""
    dataset = one_line(report.dataset.source)
    if report.recommendation is None:
        return f"{dataset}: no recommendation"
    verdict = report.recommendation.verdict.value
    return f"{dataset}: {format_settings(report.recommendation.settings)} ({verdict})"


def _compute_lead(report: Report) -> Lead | None:
    """Return the line under the headline, or None where nothing is recommended."""
    recommendation = report.recommendation
    if recommendation is None:
        return None
    sentence = compose_speedup(recommendation)
    figure, _, rest = sentence.partition(" ")
    return Lead(figure, rest) if figure.endswith("x") else Lead("", sentence)


def _compute_answer_rows(report: Report) -> list[AnswerRow]:
    """Return the answer's rows, with bars where all three rates share one scale."""
    recommendation = report.recommendation
    rates: dict[str, float | None] = {}
    if recommendation is not None:
        rates = {
            "now": recommendation.baseline.rate_per_s,
            "use": recommendation.rate_per_s,
            "ceiling": report.ceilings.device_rate_per_s,
        }
    largest = max((rate for rate in rates.values() if rate is not None), default=1.0)
    lead = None if recommendation is None else compose_speedup(recommendation)
    return [_compute_answer_row(row, lead, rates.get(row.label), largest) for row in compose_answer(report)]


def _compute_answer_row(row: Row, lead: str | None, rate_per_s: float | None, largest_per_s: float) -> AnswerRow:
    """Return a row without the speed-up, which stands in large letters above all rows."""
    bar = None if rate_per_s is None else round(100 * rate_per_s / largest_per_s, 2)
    return AnswerRow(row.label, tuple(line for line in row.lines if line != lead), bar)


def _compute_drawings(report: Report) -> dict[str, list[Markup]]:
    """Return the charts in both sizes; an empty list where there is nothing to draw."""
    throughput, duel = compute_throughput_chart(report), compute_duel_chart(report)
    drawn = {
        "throughput": [] if throughput is None else [draw_throughput(throughput, size) for size in (WIDE, NARROW)],
        "duel": [] if duel is None else [draw_duel(duel, size) for size in (WIDE, NARROW)],
    }
    # Drawn from numbers and our own words only: no foreign text enters an SVG.
    return {f"{name}_svgs": [Markup(svg) for svg in svgs] for name, svgs in drawn.items()}  # noqa: S704


def _draw_annealing(chart: AnnealingChart | None) -> list[Markup]:
    """Return the chart in both sizes, as `_compute_drawings` does."""
    return [] if chart is None else [Markup(draw_annealing(chart, size)) for size in (WIDE, NARROW)]  # noqa: S704
