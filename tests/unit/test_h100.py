"""What is said of trials that a real H100 ran? The saved reports of `reports/benchmarks/`, judged anew."""

from dataclasses import replace
from pathlib import Path

import pytest

from loadtune.advice.case import Case, main_work_cores
from loadtune.advice.rules import find
from loadtune.advice.variants import find_variants
from loadtune.render.saved import read_report

FOLDER = Path(__file__).resolve().parents[2] / "reports" / "benchmarks"


@pytest.fixture(scope="module")
def report():
    return read_report(FOLDER / "h100-probe.json")


def case_of(report, workers):
    """The case of one of its settings, with all that was measured beside it."""
    ran = [each for each in report.trials if each.role in {"grid", "baseline"}]
    chosen = next(each for each in ran if each.settings.num_workers == workers)
    return Case(
        chosen=chosen,
        baseline=None,
        limits=report.environment.limits,
        device="cuda",
        sample_count=660,
        others=report.trials,
        gpu=report.environment.gpus[0],
    )


def test_six_workers_feed_it_and_the_copies_hold_it_up(report):
    """The device never waits, and yet does 165 of the 200 samples/s of a resident batch: copies of pageable memory."""
    found = {each.rule: each for each in find(case_of(report, 6))}
    assert {"device-bound", "copy-bound"} <= found.keys()
    assert "pin_memory=True" in found["copy-bound"].action
    assert "quicker copies" in found["device-bound"].action
    assert 15 < found["copy-bound"].worth_per_s < 45
    assert not {"main-process-bound", "loader-bound", "cpu-saturated", "throttled-gpu", "shared-gpu"} & found.keys()


def test_four_workers_do_not_feed_it(report):
    """A stall of 28 %, with 11 of 16 cores idle."""
    found = {each.rule for each in find(case_of(report, 4))}
    assert "loader-bound" in found
    assert "device-bound" not in found


def test_pinned_memory_is_worth_a_try(report):
    """The copy takes a fifth of a step; nothing asks for other threads."""
    case = replace(case_of(report, 6), sample_count=None)
    assert [each.settings.pin_memory for each in find_variants(case)] == [True]


def test_a_core_that_turns_while_it_waits_is_no_work(report):
    """The main process used 0.98 cores, and half of that at most was taking batches and launching."""
    chosen = case_of(report, 6).chosen
    assert chosen.trace.mean_main_cores > 0.95
    assert main_work_cores(chosen, report.trials) < 0.6
