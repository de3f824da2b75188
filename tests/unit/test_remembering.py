"""Kept answers: what decides them changes the key, what does not leaves it, and a broken file is none."""

import msgspec
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from loadtune import remembering
from loadtune.records.report import Report, Verdict
from loadtune.remembering import compute_key, describe_object, recall, remember
from tests.examples import EXAMPLES, faster_report, inconclusive_report


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def key(report: Report, **objects: object) -> str:
    return compute_key(report.request, report.environment, report.dataset, objects)


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


def test_objects_count_by_class_code_and_shapes_and_not_by_weights():
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    assert describe_object(model) == describe_object(other)
    assert describe_object(model) != describe_object(nn.Linear(3, 4))
    assert describe_object(DataLoader([1, 2])) != describe_object(DataLoader([1, 2, 3]))
    assert describe_object(DataLoader([1, 2])) != describe_object(DataLoader([1, 2], batch_size=2))

    def step(batch):
        return batch.sum()

    def other_step(batch):
        return batch.mean()

    assert describe_object(step) == describe_object(step)
    assert describe_object(step) != describe_object(other_step)
    assert describe_object((torch.optim.SGD, {"lr": 0.1})) != describe_object((torch.optim.SGD, {"lr": 0.2}))


def test_objects_that_raise_are_described_all_the_same():
    class Shy:
        def __len__(self):
            raise RuntimeError("not now")

        def state_dict(self):
            raise RuntimeError("nor this")

    assert "Shy" in describe_object(Shy())["type"]


def test_an_answer_is_kept_and_says_so():
    report = faster_report()
    assert recall("k") is None
    assert remember("k", report)
    found = recall("k")
    assert found is not None
    assert "nothing was measured now" in found.search_notes[0]
    assert msgspec.structs.replace(found, search_notes=report.search_notes) == report


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
