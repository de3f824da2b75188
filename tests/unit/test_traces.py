"""Lines of GPU, CPU and memory over time: what is drawn, on which scale, and what is said where nothing was read."""

import math

import msgspec
import pytest

from loadtune.records.report import Report
from loadtune.records.resources import GpuSample, HostSample, ResourceTrace, Unavailable
from loadtune.render.html import render_html
from loadtune.render.traces import LARGE_POINTS, SMALL_MAX, SMALL_POINTS, compute_traces, thin_out
from tests.examples import complete, faster_report, inconclusive_report, settings

GIB = 1024**3


def long_trace(cores: float, samples: int = 200, **changes: object) -> ResourceTrace:
    """Ten seconds, of which the last six were measured; memory grows, the GPU alternates."""
    times = [10.0 * number / (samples - 1) for number in range(samples)]
    values = {
        "started_monotonic_s": 0.0,
        "measuring_s": (4.0, 10.0),
        "host": tuple(
            HostSample(
                at_s=at_s, worker_cores=cores, main_cores=0.5, foreign_cores=0.1, memory_bytes=int(at_s * GIB / 5)
            )
            for at_s in times
        ),
        "gpu": tuple(GpuSample(at_s=at_s, utilisation_ratio=math.sin(at_s) ** 2) for at_s in times),
        **changes,
    }
    return ResourceTrace(**values)


def watched(report: Report, **changes: object) -> Report:
    """The report with a long trace in every trial."""
    trials = tuple(
        msgspec.structs.replace(trial, trace=long_trace(0.5 * trial.settings.num_workers, **changes))
        for trial in report.trials
    )
    return msgspec.structs.replace(report, trials=trials)


def points(line) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in line.points.split()]


def test_the_settings_of_the_verdict_are_large_and_the_others_small():
    report = watched(faster_report())
    found = compute_traces(report)
    assert [view.word for view in found.large] == ["now", "use"]
    assert [view.title for view in found.large] == [
        "num_workers=0, batch_size=16 (baseline)",
        "num_workers=4, batch_size=16",
    ]
    assert len(found.small) == len(report.trials) - 2
    assert {view.word for view in found.small} == {""}


def test_lines_lie_within_the_drawing_and_are_thinned_out():
    found = compute_traces(watched(faster_report()))
    for views, most in ((found.large, LARGE_POINTS), (found.small, SMALL_POINTS)):
        for view in views:
            assert [strip.name for strip in view.strips] == ["GPU utilisation", "CPU", "memory"]
            for strip in view.strips:
                for line in strip.lines:
                    places = points(line)
                    assert 2 <= len(places) <= most
                    assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in places)
                    assert places == sorted(places, key=lambda place: place[0])
    assert found.large[0].measuring == (40.0, 60.0)


def test_all_trials_share_their_scales():
    """Twice the cores are twice as high, whichever trial they belong to; what goes beyond the cores is cut."""
    report = watched(faster_report())
    cores = report.environment.limits.usable_cores
    found = compute_traces(report)
    (now, use) = (view.strips[1] for view in found.large)
    assert now.top == use.top == f"{cores:.0f} cores"
    heights = [100 - points(strip.lines[0])[0][1] for strip in (now, use)]
    assert heights == [0, pytest.approx(100 * min(1.0, 2 / cores), abs=0.1)]
    assert use.lines[0].name == "workers"


def test_what_was_not_read_is_said_and_not_drawn():
    reason = Unavailable(reading="utilisation_mean_ratio", reason="NVML is not supported here")
    report = watched(faster_report(), gpu=(), unavailable=(reason,))
    strip = compute_traces(report).large[0].strips[0]
    assert (strip.lines, strip.note) == ((), "not measured: NVML is not supported here")
    bare = tuple(HostSample(at_s=float(second)) for second in range(5))
    report = watched(faster_report(), host=bare)
    strips = compute_traces(report).large[0].strips
    assert [strip.note for strip in strips[1:]] == ["not measured", "not measured"]


def test_a_cpu_has_no_gpu_strip():
    found = compute_traces(watched(inconclusive_report()))
    assert [strip.name for strip in found.large[0].strips] == ["CPU", "memory"]


def test_a_moment_is_no_trace():
    assert compute_traces(faster_report()) is None


def test_a_carpet_of_small_ones_is_cut_and_counted():
    report = faster_report()
    trials = tuple(complete(number, settings(number, 16), 10.0) for number in range(1, SMALL_MAX + 9))
    report = watched(msgspec.structs.replace(report, trials=trials))
    found = compute_traces(report)
    assert len(found.small) == SMALL_MAX
    assert found.left_out == len(trials) - len(found.large) - SMALL_MAX


def test_thinning_keeps_the_mean():
    values = [(float(number), float(number % 7)) for number in range(1000)]
    thin = thin_out(values, 40)
    assert len(thin) == 40
    assert sum(value for _, value in thin) / 40 == pytest.approx(sum(value for _, value in values) / 1000)
    assert thin_out(values[:10], 40) == values[:10]


def test_the_page_stays_small_beside_its_data():
    """Under 230 kB with fifteen trials of ten seconds each, the explanations of its findings included."""
    report = watched(faster_report(), samples=100)
    page = render_html(report)
    data = page[page.index('id="report-data"') :]
    assert len(page.encode()) - len(data.encode()) < 230_000
    assert page.count("<polyline") > 50
