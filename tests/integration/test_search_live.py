"""The guided search with real workers: few settings measured, what was expected told, and a probe gone on with."""

from pathlib import Path

import msgspec
import pytest

from loadtune import ProbeOptions, probe
from loadtune.errors import UsageError
from loadtune.records.report import Report
from loadtune.render.saved import write_report

STEP_S = 0.02
"""Of the replayed device: four samples of 25 ms each take a worker 0.1 s, so that five workers feed it."""


def options(**changes: object) -> ProbeOptions:
    asked = {
        "dataset": "tests.targets.truth:waiting_half",
        "step_time_s": STEP_S,
        "batch_size": "4",
        "baseline": "num_workers=0",
        "budget_s": 45.0,
        "search": "guided",
    }
    return ProbeOptions(**(asked | changes))


@pytest.fixture(scope="module")
def found() -> Report:
    return probe(options(), quiet=True)


def test_it_finds_enough_workers_and_measures_few_settings(found: Report) -> None:
    told = found.recommendation
    assert told is not None
    assert 4 <= told.settings.num_workers <= 12
    assert told.rate_per_s > 2.5 * (told.baseline.rate_per_s or 0.0)
    assert found.search is not None
    measured = {trial.settings for trial in found.trials if trial.role in {"grid", "baseline"}}
    assert len(measured) < found.search.settings_count / 2
    assert measured >= {each.settings for each in found.search.expectations if each.left_out is None}


def test_what_was_expected_is_near_what_came_where_workers_only_wait(found: Report) -> None:
    assert found.search is not None
    rates = {trial.settings: trial.rate_per_s for trial in found.trials if trial.role == "grid"}
    expected = {each.settings: each.expected_rate_per_s for each in found.search.expectations}
    settings = next(each for each in rates if each.num_workers and rates[each] and expected.get(each))
    assert 0.6 < (rates[settings] or 0.0) / (expected[settings] or 1.0) < 1.6


def test_a_probe_goes_on_where_it_stopped(found: Report, tmp_path: Path) -> None:
    """As if it had been interrupted after its first looks; another question is refused."""
    kept = tuple(trial for trial in found.trials if trial.round == 0)
    path = tmp_path / "report.json"
    write_report(msgspec.structs.replace(found, status="interrupted", trials=kept, duels=()), path)
    again = probe(options(resume=str(path)), quiet=True)
    assert [each.measurement for each in again.trials[:3]] == [each.measurement for each in kept[:3]]
    assert any("are from the probe that this one went on with" in note for note in again.search_notes)
    with pytest.raises(UsageError, match="the options"):
        probe(options(resume=str(path), epochs=7), quiet=True)
