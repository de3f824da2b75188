"""What terminal and page say where another batch asks for another rate and schedule."""

import re

import msgspec
import pytest

from loadtune.records.report import TrainingProgress
from loadtune.render.annealing import compose_progress, compute_annealing
from loadtune.render.drawing import NARROW, WIDE, draw_annealing
from loadtune.render.html import render_html
from loadtune.render.terminal import answer_lines
from tests.examples import faster_report


def with_rate(report, rate):
    workload = msgspec.structs.replace(report.request.workload, learning_rate=rate)
    return msgspec.structs.replace(report, request=msgspec.structs.replace(report.request, workload=workload))


def with_recommendation(report, **changes):
    return msgspec.structs.replace(report, recommendation=msgspec.structs.replace(report.recommendation, **changes))


def test_the_larger_batch_comes_with_its_schedule():
    report = with_rate(faster_report(), 0.007)
    (view,) = compute_annealing(report)
    told = next(each for each in report.recommendation.alternatives if each.learning_rate.factor != 1).learning_rate
    assert (view.chart.batch_sizes, view.batch_size) == ((told.base_batch_size, told.batch_size), told.batch_size)
    for before, after in zip(*view.chart.rates, strict=True):
        assert after == pytest.approx(told.factor * before)
    assert view.chart.rates[0][0] == pytest.approx(0.007)
    assert view.chart.rates[0][-1] == 0.0
    assert view.code == told.code
    compile("\n".join(view.code), "pasted", "exec")


def test_without_a_rate_the_picture_is_relative():
    report = with_rate(faster_report(), None)
    (view,) = compute_annealing(report)
    assert view.chart.is_relative
    assert (view.chart.rates[0][0], view.chart.rates[1][0]) == (1.0, 2.0)
    assert "by the one now" in draw_annealing(view.chart)


def test_what_changes_nothing_has_no_section():
    """No alternative, and a report of before there was code."""
    report = faster_report()
    assert compute_annealing(with_recommendation(report, alternatives=())) == ()
    bare = msgspec.structs.replace(report.recommendation.alternatives[0].learning_rate, code=(), schedule=None)
    old = msgspec.structs.replace(report.recommendation.alternatives[0], learning_rate=bare)
    assert compute_annealing(with_recommendation(report, alternatives=(old,))) == ()
    assert compute_annealing(msgspec.structs.replace(report, recommendation=None)) == ()


def test_the_recommendation_s_own_batch_has_one_too():
    """Where the rate was tuned for another batch than the baseline's; one view a batch, the smallest first."""
    report = faster_report()
    (alternative,) = report.recommendation.alternatives
    own = msgspec.structs.replace(alternative.learning_rate, batch_size=24, code=("optimizer = 1",))
    views = compute_annealing(with_recommendation(report, learning_rate=own))
    assert [view.batch_size for view in views] == [24, 32]
    page = render_html(with_recommendation(report, learning_rate=own))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {"anneal-24", "anneal-32"} <= set(ids)


@pytest.mark.parametrize("points", [(), ((0, 1.0, 2.0),)])
def test_a_schedule_that_cannot_be_drawn_still_has_its_code(points):
    """A plateau's, and data without a length."""
    report = faster_report()
    (alternative,) = report.recommendation.alternatives
    schedule = msgspec.structs.replace(alternative.learning_rate.schedule, points=points)
    told = msgspec.structs.replace(alternative.learning_rate, schedule=schedule)
    report = with_recommendation(report, alternatives=(msgspec.structs.replace(alternative, learning_rate=told),))
    (view,) = compute_annealing(report)
    assert view.chart is None
    page = render_html(report)
    assert "scheduler = anneal(" in page
    assert "annealing-32" not in page


def test_it_is_drawn_for_the_page():
    report = with_rate(faster_report(), 0.007)
    page = render_html(report)
    assert "When the batch changes" in page
    assert "scheduler = anneal(" in page
    assert "No scheduler was handed over" in page
    (view,) = compute_annealing(report)
    for size in (WIDE, NARROW):
        assert draw_annealing(view.chart, size) == draw_annealing(view.chart, size)
        assert 'role="img"' in draw_annealing(view.chart, size)
        labels = re.findall(r">(0\.\d+)<", draw_annealing(view.chart, size))
        assert len(set(labels)) == len(labels) > 2


def test_the_terminal_shows_the_code_whole():
    """In a narrow terminal too: what is wrapped cannot be pasted."""
    report = faster_report()
    code = report.recommendation.alternatives[0].learning_rate.code
    lines = answer_lines(report, width=40)
    start = lines.index(f"  {code[0]}")
    assert lines[start : start + len(code)] == [f"  {line}" for line in code]
    assert any(line.startswith("paste, with a batch of 32") for line in lines)


def test_hostile_code_stays_a_line():
    """A report may come from anybody."""
    report = faster_report()
    (alternative,) = report.recommendation.alternatives
    told = msgspec.structs.replace(alternative.learning_rate, code=("a\x1b[2J\nb</code><script>",))
    report = with_recommendation(report, alternatives=(msgspec.structs.replace(alternative, learning_rate=told),))
    assert any(line == "  a[2J b</code><script>" for line in answer_lines(report))
    assert "b</code><script>" not in render_html(report)


@pytest.mark.parametrize(
    ("progress", "said", "unsaid"),
    [
        ({"ratio": 1.4, "low": 1.3, "high": 1.5}, "1.40x [1.30 1.50] the speed", "slower"),
        ({"ratio": 1.1, "low": 0.9, "high": 1.2}, "it may be slower", "lower bound"),
        ({"ratio": 1.4}, "1.40x the speed", "slower"),
        ({"ratio": 1.4, "is_at_least": True}, "at least 1.40x", "not shown"),
        ({"ratio": 0.7, "is_at_least": True}, "not shown to pay", "it may"),
    ],
)
def test_what_a_larger_batch_is_worth_is_said(progress, said, unsaid):
    text = compose_progress(TrainingProgress(samples_ratio=1.25, **progress))
    assert said in text
    assert unsaid not in text
    assert "1.25 times the samples" in text
