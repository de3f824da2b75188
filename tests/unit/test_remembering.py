"""Kept answers: what decides them changes the key, what does not leaves it, and a broken file is none."""

import msgspec
import pytest

from loadtune import remembering
from loadtune.records.report import Report, Verdict
from loadtune.remembering import compute_facts, compute_key, is_recalled, recall, remember
from tests.examples import EXAMPLES, faster_report, inconclusive_report


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def key(report: Report, **objects: object) -> str:
    facts = compute_facts(report.request, report.environment, report.dataset, objects)
    return None if facts is None else compute_key(facts)


def changed(report: Report, part: str, **changes: object) -> Report:
    return msgspec.structs.replace(report, **{part: msgspec.structs.replace(getattr(report, part), **changes)})


def with_limits(report: Report, **changes: object) -> Report:
    limits = msgspec.structs.replace(report.environment.limits, **changes)
    return changed(report, "environment", limits=limits)


@pytest.mark.parametrize(
    "other",
    [
        lambda report: changed(report, "request", budget_s=61.0),
        lambda report: changed(report, "request", num_workers=(1, 2)),
        lambda report: changed(
            report, "request", workload=msgspec.structs.replace(report.request.workload, crop_px=65)
        ),
        lambda report: changed(report, "dataset", sample_count=7),
        lambda report: changed(report, "environment", file_system="nfs4"),
        lambda report: changed(report, "environment", versions={"torch": "9.9"}),
        lambda report: with_limits(report, usable_cores=report.environment.limits.usable_cores + 1),
        lambda report: with_limits(report, memory_limit_bytes=2**34),
        lambda report: with_limits(report, shm_total_bytes=2**26),
    ],
)
def test_what_decides_the_answer_changes_the_key(other):
    report = faster_report()
    assert key(report) != key(other(report))


def test_what_does_not_decide_leaves_the_key():
    report = faster_report()
    same = changed(report, "request", command=("loadtune", "probe", "--quiet"))
    same = changed(same, "dataset", bad_samples=("a: broken",), bad_sample_count=1)
    same = with_limits(
        same, memory_available_bytes=5, memory_limit_bytes=same.environment.limits.memory_limit_bytes + 9
    )
    assert key(report) == key(same)


def test_what_cannot_be_told_apart_is_not_kept():
    report = faster_report()
    assert key(report, dataset=[object() for _ in range(3)]) is not None
    assert key(report, dataset=list(range(500_000))) is None
    missing = msgspec.structs.replace(report.request.workload, dataset_target="nowhere.py:make")
    assert key(changed(report, "request", workload=missing)) is None


def test_a_script_counts_by_its_content(tmp_path):
    script = tmp_path / "train.py"
    report = faster_report()
    workload = msgspec.structs.replace(report.request.workload, dataset_target=f"{script}:make")
    report = changed(report, "request", workload=workload)
    keys = []
    for text in ("make = 1", "make = 1", "make = 2"):
        script.write_text(text)
        keys.append(key(report))
    assert keys[0] == keys[1] != keys[2]


def test_an_answer_is_kept_and_says_so():
    report = faster_report()
    assert recall("k") is None
    assert remember("k", report)
    found = recall("k")
    assert found is not None
    assert is_recalled(found)
    assert not is_recalled(report)
    assert "--fresh" in found.warnings[0]
    assert msgspec.structs.replace(found, warnings=report.warnings) == report


def test_what_is_unfinished_or_undecided_is_not_kept():
    assert inconclusive_report().recommendation.verdict is Verdict.INCONCLUSIVE
    for make in EXAMPLES.values():
        report = make()
        told = report.recommendation
        worth = report.status == "complete" and told is not None and told.verdict is not Verdict.INCONCLUSIVE
        assert remember("k", report) == worth


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04.", b'{"schema_version": 99}'])
def test_a_broken_file_is_no_answer(content):
    remember("k", faster_report())
    (remembering.cache_folder() / "k.json").write_bytes(content)
    assert recall("k") is None


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert not remember("k", faster_report())
    assert recall("k") is None
