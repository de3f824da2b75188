"""A probe goes on from its own trials, and from nobody else's."""

import msgspec
import pytest

from loadtune.advice.search import Leg
from loadtune.errors import UsageError
from loadtune.records.measurement import TrialState
from loadtune.records.settings import Settings
from loadtune.remembering import compute_facts
from loadtune.render.saved import write_report
from loadtune.resuming import FACT_WORDS, Earlier, open_earlier
from tests.examples import faster_report
from tests.fake_runner import complete_result, failed_result


def facts_of(report, **objects):
    return compute_facts(report.request, report.environment, report.dataset, objects)


def saved(tmp_path, report, facts):
    path = tmp_path / "report.json"
    write_report(msgspec.structs.replace(report, facts=facts), path)
    return path


def test_each_trial_is_used_once_and_by_the_leg_that_asks_for_it():
    settings = Settings(num_workers=2, batch_size=8)
    earlier = Earlier([complete_result(settings, 100.0, number=7), complete_result(settings, 90.0, round=1)])
    leg = Leg(settings=settings, role="grid")
    assert earlier.take(Leg(settings=settings, role="grid", feed="resident"), 1) is None
    assert earlier.take(leg, 3).number == 3
    assert earlier.take(leg, 4) is None
    assert earlier.take(Leg(settings=settings, role="grid", round=1), 4).rate_per_s == pytest.approx(90.0)
    assert earlier.used == 2


def test_what_was_cut_short_is_measured_again_and_what_failed_is_not():
    settings = Settings(num_workers=2, batch_size=8)
    leg = Leg(settings=settings, role="grid")
    assert Earlier([failed_result(settings, TrialState.INTERRUPTED)]).take(leg, 1) is None
    assert Earlier([failed_result(settings, TrialState.OUT_OF_MEMORY)]).take(leg, 1) is not None


def test_the_same_question_goes_on_with_another_budget(tmp_path):
    report = faster_report()
    path = saved(tmp_path, report, facts_of(report))
    longer = msgspec.structs.replace(report, request=msgspec.structs.replace(report.request, budget_s=999.0))
    earlier = open_earlier(path, facts_of(longer))
    assert earlier.take(Leg(settings=report.trials[0].settings, role="baseline"), 1) is not None


def test_another_question_is_refused_and_told_from_this_one(tmp_path):
    report = faster_report()
    path = saved(tmp_path, report, facts_of(report))
    other = msgspec.structs.replace(
        report,
        request=msgspec.structs.replace(report.request, epochs=7),
        environment=msgspec.structs.replace(report.environment, file_system="nfs4"),
    )
    with pytest.raises(UsageError, match="the data's file system, the options differ"):
        open_earlier(path, facts_of(other))
    with pytest.raises(UsageError, match="cannot be told"):
        open_earlier(path, None)
    with pytest.raises(UsageError, match="cannot be told"):
        open_earlier(saved(tmp_path, report, None), facts_of(report))


def test_every_fact_has_its_words():
    assert set(facts_of(faster_report())) - {"budget"} == set(FACT_WORDS)
