"""Settings beyond the two axes are tried on evidence alone."""

import msgspec
import pytest

from loadtune.advice.variants import COPY_RATIO, SPREAD_RATIO, TAIL_RATIO, find_variants
from loadtune.records.measurement import TrialResult
from loadtune.records.settings import Settings
from tests.fake_runner import complete_result

SETTINGS = Settings(num_workers=4, batch_size=10)
USUAL_S = 0.4
"""A worker's batch: 4 workers deliver 100 samples a second."""


def trial(settings: Settings = SETTINGS, **measured) -> TrialResult:
    made = complete_result(settings, 100.0)
    fields = {"stall_ratio": 0.3, "longest_batch_s": USUAL_S, "copy_s": 0.0, "step_s": 0.1} | measured
    return msgspec.structs.replace(made, measurement=msgspec.structs.replace(made.measurement, **fields))


def names(*args, **kwargs) -> list[str]:
    found = find_variants(*args, **kwargs)
    return [
        next(name for name in ("in_order", "prefetch_factor", "pin_memory")
             if getattr(each.settings, name) != getattr(args[0].settings, name))
        for each in found
    ]  # fmt: skip


def test_an_even_loader_and_a_fed_device_ask_for_nothing():
    assert find_variants(trial(), "replay") == ()
    slow = {"longest_batch_s": 10 * USUAL_S}
    assert find_variants(trial(stall_ratio=0.04, **slow), "replay") == ()
    assert find_variants(trial(stall_ratio=None, **slow), "replay") == ()


@pytest.mark.parametrize(("factor", "expected"), [(1.01, ["in_order", "prefetch_factor"]), (0.99, ["prefetch_factor"])])
def test_slow_samples_may_be_passed_by(factor, expected):
    assert names(trial(longest_batch_s=factor * TAIL_RATIO * USUAL_S), "replay") == expected


def test_one_worker_has_no_order_to_lose():
    alone = Settings(num_workers=1, batch_size=10)
    assert "in_order" not in names(trial(alone, longest_batch_s=100.0), "replay")
    assert find_variants(trial(Settings(num_workers=0, batch_size=10), longest_batch_s=100.0), "replay") == ()


@pytest.mark.parametrize(("spread", "count"), [(SPREAD_RATIO + 0.01, 1), (SPREAD_RATIO - 0.01, 0), (None, 0)])
def test_a_deeper_queue_is_for_unequal_batches(spread, count):
    found = find_variants(trial(), "replay", spread)
    assert len(found) == count
    assert all(each.settings.prefetch_factor == 4 for each in found)


@pytest.mark.parametrize(("share", "device", "count"), [(1.1, "cuda", 1), (0.9, "cuda", 0), (1.1, "replay", 0)])
def test_pinning_is_for_copies_to_a_gpu(share, device, count):
    assert len(find_variants(trial(copy_s=share * COPY_RATIO * 0.1), device)) == count
    pinned = Settings(num_workers=4, batch_size=10, pin_memory=True)
    assert find_variants(trial(pinned, copy_s=0.05), "cuda") == ()


EPOCH = 1000
"""Samples: 10 s at 100 a second."""


@pytest.mark.parametrize(("boundary_s", "count"), [(0.32, 1), (0.3, 0), (None, 0)])
def test_workers_are_kept_where_starting_them_takes_a_share_of_an_epoch(boundary_s, count):
    """The tie rule's 3 % of it: 0.31 s here. One round of the workers' batches is a short epoch."""
    found = find_variants(trial(epoch_boundary_s=boundary_s, stall_ratio=0.0), "replay", None, EPOCH)
    assert [each.settings for each in found] == [msgspec.structs.replace(SETTINGS, persistent_workers=True)] * count
    assert all(each.epoch_batches == 4 and "3% of an epoch of 1000 samples" in each.why for each in found)


def test_workers_are_not_kept_without_evidence():
    """No workers, workers that are kept already, no length, or an epoch of a single batch."""
    for settings in (
        Settings(num_workers=0, batch_size=10),
        Settings(num_workers=4, batch_size=10, persistent_workers=True),
    ):
        assert find_variants(trial(settings, epoch_boundary_s=5.0, stall_ratio=0.0), "replay", None, EPOCH) == ()
    due = trial(epoch_boundary_s=5.0, stall_ratio=0.0)
    assert find_variants(due, "replay") == ()
    assert find_variants(due, "replay", None, 19) == ()
    assert find_variants(due, "replay", None, 29)[0].epoch_batches == 2


def test_what_is_known_to_cost_comes_before_what_is_guessed():
    """Batches that wait in order were seen, and so was an epoch's end; a deeper queue may carry over them, or not."""
    slow = {"longest_batch_s": 1.01 * TAIL_RATIO * USUAL_S}
    found = find_variants(trial(epoch_boundary_s=4.0, **slow), "replay", None, EPOCH)
    assert [(each.settings.in_order, each.settings.persistent_workers) for each in found] == [
        (False, False),
        (True, True),
        (True, False),
    ]
    assert [each.epoch_batches for each in found] == [None, 4, None]


def test_what_was_not_measured_accuses_nobody():
    bare = msgspec.structs.replace(complete_result(SETTINGS, 100.0))
    assert find_variants(bare, "cuda") == ()
