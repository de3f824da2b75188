"""Is the loader that is measured the one that was asked for? In this process, without workers."""

import itertools
from dataclasses import replace
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, WeightedRandomSampler

from loadtune.engine.child import _keys
from loadtune.errors import TargetError
from loadtune.measure.loader import (
    Batches,
    Endless,
    EndlessOrder,
    StampedBatch,
    StampingCollate,
    WorkerInit,
    build_loader,
    shuffled,
)
from loadtune.records.settings import Settings
from loadtune.workload.segmentation import Faults
from loadtune.workload.target import describe_dataset


class Counting(torch.utils.data.Dataset):
    def __init__(self, length=10):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, number):
        return torch.tensor(number)


class Faulty(Counting):
    """Counts what it was asked for, as the built-in data set counts faults."""

    met = 0

    def __getitem__(self, number):
        self.met += 1
        return super().__getitem__(number)

    def take_faults(self):
        faults = Faults(pixels_seen=self.met)
        self.met = 0
        return faults


class Stream(IterableDataset):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return iter(torch.arange(self.count))


def take(found, count, settings=None, **changes):
    """The first batches of this data, as lists."""
    loader = build_loader(
        describe_dataset(found, "it is"), settings or Settings(num_workers=0, batch_size=4), **changes
    )
    return [item.batch.tolist() for item in itertools.islice(iter(loader), count)]


@given(st.integers(1, 50), st.integers(0, 2**31), st.integers(0, 200))
def test_the_order_is_a_shuffle_of_each_epoch_and_may_begin_anywhere(length, seed, first):
    """To begin at position n is to skip n samples, in whatever epoch it lies."""
    whole = list(itertools.islice(EndlessOrder(length, seed), first + 3 * length))
    for epoch in range((first + 3 * length) // length):
        assert sorted(whole[epoch * length : (epoch + 1) * length]) == list(range(length))
    assert list(itertools.islice(EndlessOrder(length, seed, first), 2 * length)) == whole[first:][: 2 * length]


def test_seeds_and_epochs_give_different_orders():
    """The same ones the same."""
    assert shuffled(50, 1).tolist() == shuffled(50, 1).tolist()
    assert len({tuple(shuffled(50, seed, epoch)) for seed, epoch in ((0, 0), (5, 0), (0, 1))}) == 3


def test_the_order_does_not_depend_on_the_settings():
    """Nor on the global generator."""
    torch.manual_seed(1)
    one = take(Counting(), 5, order_seed=3)
    torch.manual_seed(2)
    two = take(Counting(), 10, Settings(num_workers=0, batch_size=2), order_seed=3)
    assert list(chain(*one)) == list(chain(*two))


def test_an_epoch_has_no_end_and_no_short_batch():
    """10 samples in batches of 4: the third takes two from the next epoch."""
    batches = take(Counting(), 10, order_seed=0)
    assert {len(batch) for batch in batches} == {4}
    assert sorted(list(chain(*batches))[:10]) == list(range(10))


def epochs(found, count, settings=None, **changes):
    """So many epochs of this data, each as its batches in lists."""
    settings = settings or Settings(num_workers=0, batch_size=4)
    loader = build_loader(describe_dataset(found, "it is"), settings, **changes)
    return [[item.batch.tolist() for item in loader] for _ in range(count)]


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 40), st.integers(0, 5))
def test_an_epoch_may_end_and_the_next_goes_on_in_the_order(batches, size, first, seed):
    """Cut into epochs, the order is the endless one: from its place, of its seed, nothing lost or read twice."""
    settings = Settings(num_workers=0, batch_size=size)
    place = {"order_seed": seed, "first_sample": first}
    cut = epochs(Counting(7), 3, settings, epoch_batches=batches, **place)
    assert [len(each) for each in cut] == [batches] * 3
    assert list(chain(*cut)) == take(Counting(7), 3 * batches, settings, **place)


def test_a_loader_s_own_sampler_and_batches_are_cut_too():
    """And an iterable data set is left to end by itself."""
    own = DataLoader(Counting(), batch_size=4, sampler=[7, 3, 5])
    assert epochs(own, 2, order_seed=0, epoch_batches=1) == [[[7, 3, 5, 7]], [[3, 5, 7, 3]]]
    batched = DataLoader(Counting(), batch_sampler=BatchSampler(SequentialSampler(range(10)), 6, drop_last=False))
    assert epochs(batched, 2, order_seed=0, epoch_batches=1) == [[[0, 1, 2, 3, 4, 5]], [[6, 7, 8, 9]]]
    alone = DataLoader(Counting(3), batch_size=None)
    assert epochs(alone, 2, order_seed=0, epoch_batches=2)[0] == take(alone, 2, order_seed=0)
    assert epochs(Stream(12), 2, order_seed=0, epoch_batches=1) == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]] * 2


def test_a_loop_begins_a_cut_order_anew_without_losing_a_sample():
    """As the loop of a duel's side takes them."""
    loader = build_loader(
        describe_dataset(Counting(), "it is"), Settings(num_workers=0, batch_size=2), 0, epoch_batches=3
    )
    batches = Batches(loader)
    taken = [batches.take().batch.tolist() for _ in range(10)]
    assert taken == take(Counting(), 10, Settings(num_workers=0, batch_size=2), order_seed=0)
    assert batches.epochs_ended == 3


def test_a_data_set_smaller_than_a_batch_fills_it():
    """Several epochs to one batch."""
    assert len(take(Counting(3), 1, Settings(num_workers=0, batch_size=8), order_seed=0)[0]) == 8


def test_a_plain_loader_s_order_is_ours():
    """One shuffle is replaced by another, the same in every trial; what is read in order is kept so."""
    shuffled_loader, plain = (
        DataLoader(Counting(), batch_size=3, shuffle=shuffle, collate_fn=lambda many: torch.stack(many) + 100)
        for shuffle in (True, False)
    )
    expected = [[number + 100 for number in batch] for batch in take(Counting(), 3, order_seed=4)]
    assert take(shuffled_loader, 3, order_seed=4) == expected
    assert take(plain, 2, order_seed=4) == [[100, 101, 102, 103], [104, 105, 106, 107]]


def test_a_loader_s_own_order_is_kept_and_begun_again():
    """A weighted sampler of one possible outcome."""
    sampler = WeightedRandomSampler([0.0] * 7 + [1.0] + [0.0] * 2, 6)
    assert take(DataLoader(Counting(), batch_size=3, sampler=sampler), 5, order_seed=0) == [[7] * 4] * 5


def test_a_loader_s_own_batches_are_kept_and_begun_again():
    """Its batch size too, the short last one included."""
    loader = DataLoader(Counting(), batch_sampler=BatchSampler(SequentialSampler(range(10)), 6, drop_last=False))
    assert take(loader, 4, order_seed=0) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]] * 2


def test_a_loader_that_does_not_batch_stays_so():
    """batch_size=None: what the data set yields is a batch."""
    found = build_loader(
        describe_dataset(DataLoader(Stream(3), batch_size=None), "it is"), Settings(num_workers=0, batch_size=4), 0
    )
    items = list(found)
    assert [item.batch.item() for item in items] == [0, 1, 2]
    assert {item.stamp.samples for item in items} == {None}


def test_a_stream_s_short_last_batch_is_dropped():
    """It would be another setting."""
    assert take(Stream(10), 9, order_seed=0) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_sampler_that_yields_nothing_is_the_user_s_error():
    """Instead of an endless loop."""
    with pytest.raises(TargetError, match="your list yields no samples"):
        next(iter(Endless([])))
    assert list(itertools.islice(Endless([1, 2]), 5)) == [1, 2, 1, 2, 1]


def test_a_stamp_says_when_by_whom_and_of_how_many():
    """The first knows no time of work before it; samples count whatever the collate makes of them."""
    collate = StampingCollate(lambda samples: "batch", Counting())
    first, second = collate([1, 2, 3]), collate([4, 5])
    assert (first.batch, first.stamp.samples, second.stamp.samples) == ("batch", 3, 2)
    assert (first.stamp.worker, first.stamp.wall_s, first.stamp.cpu_s) == (None, None, None)
    assert second.stamp.wall_s == pytest.approx(second.stamp.finished_s - first.stamp.finished_s)
    assert second.stamp.cpu_s >= 0
    assert first.stamp.faults == Faults()


def test_a_data_set_that_forwards_every_name_is_not_asked_for_ours():
    """It would answer with something of its own."""

    class Forwarding:
        def __getattr__(self, name):
            raise KeyError(name)

    assert StampingCollate(list, Forwarding())([1]).stamp.faults == Faults()


@pytest.mark.parametrize("made", [{"x": [1, 2, 3]}, iter([1, 2]), torch.zeros(3)])
def test_what_is_no_list_of_samples_is_not_counted(made):
    """`__getitems__` may make whatever the collate_fn takes."""
    assert StampingCollate(lambda samples: samples, Counting())(made).stamp.samples is None


def test_faults_travel_with_the_batch_in_which_they_were_met():
    """Each is told once."""
    loader = build_loader(describe_dataset(Faulty(), "it is"), Settings(num_workers=0, batch_size=4), 0)
    assert [item.stamp.faults.pixels_seen for item in itertools.islice(iter(loader), 3)] == [4, 4, 4]


def test_a_stamped_batch_is_pinned_as_the_batch_would_have_been(monkeypatch):
    """DataLoader asks any object with pin_memory to do so itself."""
    monkeypatch.setattr("loadtune.measure.loader.pin_memory", lambda batch: f"pinned {batch}")
    stamped = StampingCollate(lambda samples: "batch", None)([1])
    pinned = stamped.pin_memory()
    assert isinstance(pinned, StampedBatch)
    assert (pinned.batch, pinned.stamp) == ("pinned batch", stamped.stamp)


def test_a_worker_is_tied_to_its_trial_before_the_user_s_own_init(monkeypatch):
    """And without one of the user's, that is all."""
    calls = []
    monkeypatch.setattr("loadtune.measure.loader.end_with_parent", lambda: calls.append("tied"))
    WorkerInit(calls.append)(3)
    WorkerInit(None)(4)
    assert calls == ["tied", 3, "tied"]


def test_batches_begin_again_where_the_data_end():
    """Epochs follow one another; the wait is timed."""
    loader = build_loader(describe_dataset(Stream(8), "it is"), Settings(num_workers=0, batch_size=4), 0)
    batches = Batches(loader)
    taken = [batches.take() for _ in range(5)]
    assert [item.batch.tolist()[0] for item in taken] == [0, 4, 0, 4, 0]
    assert batches.epochs_ended == 2
    assert [item.begins_epoch for item in taken] == [False, False, True, False, True]
    assert all(item.wait_s >= 0 and item.samples == 4 for item in taken)
    assert [item.taken_s for item in taken] == sorted(item.taken_s for item in taken)


def test_data_that_fill_no_batch_are_the_user_s_error():
    """Three samples, batches of four, no end to wait for."""
    batches = Batches(build_loader(describe_dataset(Stream(3), "it is"), Settings(num_workers=0, batch_size=4), 0))
    with pytest.raises(TargetError) as raised:
        batches.take()
    assert "smaller batch size" in raised.value.hint


@pytest.mark.parametrize(
    "settings",
    [
        Settings(num_workers=0, batch_size=4),
        Settings(num_workers=1, batch_size=4),
        Settings(num_workers=1, batch_size=3, prefetch_factor=5, persistent_workers=True, in_order=False),
    ],
)
def test_the_loader_has_what_the_settings_say(settings):
    """In DataLoader's own attributes."""
    loader = build_loader(describe_dataset(Counting(), "it is"), settings, 0)
    assert (loader.num_workers, loader.batch_size, loader.drop_last) == (
        settings.num_workers,
        settings.batch_size,
        True,
    )
    assert loader.persistent_workers == settings.persistent_workers
    assert loader.in_order == settings.in_order
    if settings.num_workers:
        assert loader.prefetch_factor == (settings.prefetch_factor or 2)


def test_a_loader_s_other_parts_are_kept():
    """Generator and start method, which needs workers; a timeout would be missed by a side that is stopped."""
    generator = torch.Generator()
    own = DataLoader(
        Counting(), batch_size=2, num_workers=1, timeout=9, generator=generator, multiprocessing_context="spawn"
    )
    source = describe_dataset(own, "it is")
    kept = build_loader(source, Settings(num_workers=1, batch_size=4), 0)
    assert (kept.timeout, kept.generator) == (0, generator)
    assert kept.multiprocessing_context.get_start_method() == "spawn"
    alone = build_loader(source, Settings(num_workers=0, batch_size=4), 0)
    assert (alone.timeout, alone.multiprocessing_context) == (0, None)


@pytest.mark.parametrize(("context", "method"), [("spawn", "spawn"), (None, "fork")])
def test_what_cannot_follow_a_new_interpreter_is_forked(context, method):
    """A class that travelled by value, as one of a script does, is found by no import; one of a module is."""

    class Local(Counting):
        """Of no module."""

    for dataset, expected in ((Counting(), method), (Local(), "fork")):
        own = DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context=context)
        source = replace(describe_dataset(own, "it is"), was_handed_over=True)
        made = build_loader(source, Settings(num_workers=1, batch_size=2), 0).multiprocessing_context
        assert ("fork" if made is None else made.get_start_method()) == expected


@pytest.mark.parametrize("batched", [True, False])
def test_data_are_read_beforehand_as_the_loader_s_own_sampler_asks_for_them(batched):
    """It may draw more samples than there are, or leave some out."""
    data = list(range(8))
    sampler = WeightedRandomSampler([1.0] * 4 + [0.0] * 4, num_samples=20)
    own = DataLoader(data, batch_size=4 if batched else None, sampler=sampler)
    keys = list(_keys(describe_dataset(own, "it is"), 0))
    assert len(keys) == 20
    assert set(keys) <= set(range(4))
    assert sorted(_keys(describe_dataset(data, "it is"), 0)) == data
