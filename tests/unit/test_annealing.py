"""The page's section on the schedule of a larger batch."""

import re

import msgspec
import pytest

from loadtune.render.annealing import compute_annealing
from loadtune.render.drawing import NARROW, WIDE, draw_annealing
from loadtune.render.html import render_html
from tests.examples import faster_report


def with_rate(report, rate):
    workload = msgspec.structs.replace(report.request.workload, learning_rate=rate)
    return msgspec.structs.replace(report, request=msgspec.structs.replace(report.request, workload=workload))


def test_the_larger_batch_comes_with_its_schedule():
    report = with_rate(faster_report(), 0.007)
    view = compute_annealing(report)
    told = next(each for each in report.recommendation.alternatives if each.learning_rate.factor != 1).learning_rate
    assert view.chart.batch_sizes == (told.base_batch_size, told.batch_size)
    for before, after in zip(*view.chart.rates, strict=True):
        assert after == pytest.approx(told.factor * before)
    assert view.chart.rates[0][0] == pytest.approx(0.007)
    assert view.chart.rates[0][-1] == 0.0
    assert f"batch_size={told.batch_size}" in "\n".join(view.code)
    compile("\n".join(view.code), "pasted", "exec")


def test_without_rate_or_larger_batch_there_is_none():
    report = faster_report()
    assert compute_annealing(with_rate(report, None)) is None
    alone = msgspec.structs.replace(
        report, recommendation=msgspec.structs.replace(report.recommendation, alternatives=())
    )
    assert compute_annealing(with_rate(alone, 0.007)) is None


def test_it_is_drawn_for_the_page():
    report = with_rate(faster_report(), 0.007)
    page = render_html(report)
    assert "When the batch changes" in page
    assert "scheduler = anneal(" in page
    chart = compute_annealing(report).chart
    for size in (WIDE, NARROW):
        assert draw_annealing(chart, size) == draw_annealing(chart, size)
        assert 'role="img"' in draw_annealing(chart, size)
        labels = re.findall(r">(0\.\d+)<", draw_annealing(chart, size))
        assert len(set(labels)) == len(labels) > 2
