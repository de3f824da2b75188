"""What a worker's clock sees: samples, transforms, iterators, and data sets that it leaves alone."""

import copy
import dataclasses
import itertools
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset

from loadtune.measure.loader import build_loader
from loadtune.measure.timed_methods import TimedMethods
from loadtune.measure.worker_clock import WorkerClock
from loadtune.measure.workers_seen import summarise_setup, summarise_times
from loadtune.records.settings import Settings
from loadtune.workload.target import describe_dataset


class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, item):
        for transform in self.transforms:
            item = transform(item)
        return item


class Slow:
    colour = "blue"

    def __call__(self, item):
        time.sleep(0.002)
        return item


class Slower(Slow):
    """Inherits what is timed."""


class Items(Dataset):
    def __init__(self):
        self.transform = Compose([Slow(), float, Slower()])

    def __len__(self):
        return 64

    def __getitem__(self, index):
        time.sleep(0.02 if index == 3 else 0.0)
        return torch.tensor(self.transform(index))


class Whole(IterableDataset):
    def __iter__(self):
        yield from (torch.tensor([each]) for each in range(40))


@pytest.fixture
def watched():
    """Watches in this process as in a worker, and puts everything back."""
    clocks = []

    def watch(dataset):
        clocks.append(WorkerClock())
        clocks[-1].watch(dataset)
        return clocks[-1]

    yield watch
    for clock in reversed(clocks):
        clock.leave()


def test_the_slowest_sample_is_named(watched):
    """By its index, with what the others take; the second batch begins anew."""
    items = Items()
    clock = watched(items)
    for index in range(6):
        items[index]
    work = clock.take(0.001)
    assert (work.slowest_index, work.indexed) == (3, "dataset")
    assert work.slowest_s >= 0.02 > work.median_s >= 0.004
    assert work.busy_s >= 0.03
    assert work.collate_s == 0.001
    items[5]
    assert clock.take(0.0).slowest_index == 5


def test_transforms_are_timed_by_name(watched):
    """Those of classes that may be written to; one that inherits its call counts once, under its own name."""
    clock = watched(items := Items())
    items[0]
    parts = dict(clock.take(0.0).parts)
    assert set(parts) == {"Slow", "Slower"}
    assert min(parts.values()) >= 0.002
    Slow()(1)
    items.transform(1)
    assert clock.take(0.0) is None


def test_a_transform_within_another_is_part_of_that_one(watched):
    """Though its class is timed: 20 ms within, 5 ms of its own."""

    class Wait:
        def __init__(self, seconds):
            self.seconds = seconds

        def __call__(self, item):
            time.sleep(self.seconds)
            return item

    class Around:
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, item):
            return self.inner(item)

    items = Items()
    items.transform = Compose([Around(Wait(0.02)), Wait(0.005)])
    clock = watched(items)
    items[0]
    around_s, wait_s = (part_s for _, part_s in sorted(clock.take(0.0).parts))
    assert around_s > wait_s


def test_a_watched_data_set_is_what_it_was(watched):
    """It and its transforms: class, attributes, pickles and copies. Others of the class are not timed."""
    items = Items()
    before = dict(vars(items))
    clock = watched(items)
    assert type(items) is Items
    assert vars(items) == before
    slow = items.transform.transforms[0]
    slow.colour = "red"
    assert (type(slow), vars(slow)) == (Slow, {"colour": "red"})
    pickled = pickle.loads(pickle.dumps(items))  # noqa: S301 - made in the line itself
    for other in (pickled, copy.deepcopy(items), Items()):
        assert other[0] == 0
    assert clock.take(0.0) is None


def test_what_was_replaced_is_put_back(watched):
    """Exactly: an inherited method is inherited again, and what the user has put there since stays."""
    before = {kind: dict(vars(kind)) for kind in (Items, Slow, Slower)}
    clock = watched(Items())
    assert Items.__getitem__ is not before[Items]["__getitem__"]
    clock.leave()
    assert {kind: dict(vars(kind)) for kind in before} == before

    class Own(Items):
        pass

    clock = watched(Own())
    Own.__getitem__ = later = lambda own, index: -index
    clock.leave()
    assert vars(Own)["__getitem__"] is later


def test_the_data_set_under_a_subset_is_watched(watched):
    """And its index said to be that one's."""
    subset = Subset(Subset(Items(), [3, 4]), [0, 1])
    clock = watched(subset)
    subset.__getitems__([0, 1])
    work = clock.take(0.0)
    assert (work.slowest_index, work.indexed) == (3, "dataset.dataset.dataset")


class Retrying(Dataset):
    """Asks itself for another sample, with arguments and names of its own, through whatever it inherits."""

    def __len__(self):
        return 4

    def __getitem__(self, place, tried=0, *, is_last=False):
        if is_last:
            return place, tried
        if tried < 3:
            return self.__getitem__(place + 1, tried + 1)
        return self.__getitem__(place=place, tried=tried, is_last=True)

    def __getitems__(self, places, *, extra=0):
        return [(*self[each], extra) for each in places]


class RetryingHeir(Retrying):
    def __len__(self):
        return super(type(self), self).__len__()

    def __getitem__(self, *args, **kwargs):
        return super(type(self), self).__getitem__(*args, **kwargs)


@pytest.mark.parametrize("kind", [Retrying, RetryingHeir])
def test_a_data_set_s_own_signature_is_kept(watched, monkeypatch, kind):
    """A sample that asks for another counts once."""
    monkeypatch.setattr("loadtune.measure.worker_clock.CHEAP_SAMPLE_S", 0.0)
    clock = watched(items := kind())
    assert len(items) == 4
    assert items.__getitems__(places=[0], extra=7) == [(3, 3, 7)]
    assert clock.take(0.0).median_s is None
    assert (items.__getitem__(place=1, is_last=True), items.__getitem__(0, 3)) == ((1, 0), (0, 3))
    assert clock.take(0.0).median_s is not None
    assert items[0] == (3, 3)
    work = clock.take(0.0)
    assert (work.slowest_index, work.slowest_s) == (0, work.median_s)


class Forwarding(Dataset):
    """Hands everything on to what it wraps."""

    def __init__(self, own):
        object.__setattr__(self, "own", own)

    def __getattr__(self, name):
        return getattr(self.own, name)

    def __setattr__(self, name, value):
        setattr(self.own, name, value)

    def __getitem__(self, index):
        return self.own[index]


@dataclasses.dataclass(frozen=True)
class Frozen(Dataset):
    __slots__ = ("length",)
    length: int

    def __getitem__(self, index):
        return index + self.length


class ReadOnly(Dataset):
    """Its transforms can be neither set nor looked at."""

    @property
    def transform(self):
        raise RuntimeError("not yet")

    @property
    def __class__(self):
        raise RuntimeError("nor this")

    def __repr__(self):
        raise RuntimeError("nor this")

    def __getitem__(self, index):
        return index


class Nothing(Dataset):
    """torch asks whether `__getitems__` is true."""

    __getitems__ = None

    def __getitem__(self, index):
        return index


@pytest.mark.parametrize("make", [lambda: Forwarding(Items()), lambda: Frozen(3), ReadOnly, Nothing])
def test_data_sets_that_guard_their_attributes_are_watched_all_the_same(watched, make):
    """Nothing of theirs is set or read for it."""
    clock = watched(items := make())
    assert clock.reason is None
    assert int(items[2]) in {2, 5}
    assert clock.take(0.0).slowest_index == 2


class Cached(Dataset):
    __getitem__ = lru_cache(abs)


class Batched(Nothing):
    """A property is true, but no function."""

    @property
    def __getitems__(self):
        return lambda indices: [self[each] for each in indices]


class Guarding(type):
    def __setattr__(cls, name, value):
        raise AttributeError(name)


class Guarded(metaclass=Guarding):
    def __getitem__(self, index):
        return index


@pytest.mark.parametrize("dataset", [[1, 2, 3], (1, 2), torch.arange(4), Cached(), Batched(), Guarded()])
def test_what_cannot_be_watched_is_left_alone(watched, dataset):
    """And a reason is given."""
    kind = type(dataset)
    before = dict(vars(kind))
    clock = watched(dataset)
    assert type(dataset) is kind
    assert dict(vars(kind)) == before
    assert "no plain function" in clock.reason
    assert clock.take(0.0) is None


def test_an_error_while_watching_becomes_the_reason(watched, monkeypatch):
    """And everything is as before, whatever the error says of itself."""

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    def fail(clock, dataset):
        raise Mute

    before = dict(vars(Items))
    monkeypatch.setattr(WorkerClock, "_time_transforms", fail)
    clock = watched(items := Items())
    assert "Mute" in clock.reason
    assert dict(vars(Items)) == before
    assert items[1] == 1


def test_an_error_while_replacing_leaves_nothing_replaced(watched, monkeypatch):
    """Not even what was done before it."""
    own = TimedMethods.switch

    def switch(methods, *, is_on):
        own(methods, is_on=is_on)
        if is_on:
            raise OSError("then")

    before = dict(vars(Whole))
    monkeypatch.setattr(TimedMethods, "switch", switch)
    assert watched(Whole()).reason == "it cannot be watched: OSError: then"
    assert dict(vars(Whole)) == before


def test_an_error_of_the_data_set_passes_through(watched):
    class Broken(Dataset):
        def __getitem__(self, index):
            raise KeyError(index)

    clock = watched(items := Broken())
    with pytest.raises(KeyError):
        items[1]
    assert clock.take(0.0).busy_s >= 0


class Threaded(Dataset):
    """Makes its samples in threads, each with a transform that is timed elsewhere."""

    def __init__(self):
        self.transform = Compose([Slow()])

    def __getitem__(self, index):
        return self.transform(index)

    def __getitems__(self, indices):
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(self.__getitem__, indices))


def test_what_other_threads_do_is_no_part_of_this_one_s_time(watched):
    clock = watched(items := Threaded())
    assert items.__getitems__(range(8)) == list(range(8))
    work = clock.take(0.0)
    assert (work.median_s, work.parts) == (None, ())
    with ThreadPoolExecutor(1) as pool:
        pool.submit(items.__getitem__, 1).result()
    assert clock.take(0.0) is None


class Plain:
    def __call__(self, item):
        return item


class Cheap(Dataset):
    def __init__(self):
        self.transform = Compose([Plain()])

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.transform(index)


class CheapStream(IterableDataset):
    """Its sample 130 is slow."""

    def __init__(self, count=10**6):
        self.count = count
        self.transform = Compose([Plain()])

    def __iter__(self):
        for each in range(self.count):
            time.sleep(0.01 if each == 130 else 0.0)
            yield self.transform(each)


@pytest.fixture
def _all_is_cheap(monkeypatch):
    """However busy this machine is."""
    monkeypatch.setattr("loadtune.measure.worker_clock.CHEAP_SAMPLE_S", 10.0)


@pytest.mark.usefixtures("_all_is_cheap")
@pytest.mark.parametrize("kind", [Cheap, CheapStream])
def test_cheap_samples_are_timed_in_one_batch_of_sixteen(watched, kind):
    """Of data handed out from memory, timing each sample would be most of the time. Parts rest with them."""
    clock = watched(items := kind())
    own = vars(Plain)["__call__"].__wrapped__
    stream = iter(items) if kind is CheapStream else None
    works = []
    for _ in range(17):
        for index in range(8):
            assert (items[index] if stream is None else next(stream)) >= 0
        works.append(clock.take(0.0))
        assert vars(Plain)["__call__"] is own or len(works) == 16
    assert [place for place, work in enumerate(works) if work is not None] == [0, 16]
    assert all(dict(work.parts)["Plain"] < work.busy_s for work in works if work is not None)
    assert stream is None or (works[16].slowest_index, works[16].indexed) == (130, "worker")


@pytest.mark.usefixtures("_all_is_cheap")
def test_an_epoch_that_begins_while_the_clock_rests_is_timed_later(watched):
    """Five batches of eight an epoch, as with persistent_workers: the fourth begins within the rest."""
    clock = watched(items := CheapStream(40))
    timed = []
    for _ in range(4):
        stream = iter(items)
        for _ in range(5):
            list(itertools.islice(stream, 8))
            timed.append(clock.take(0.0) is not None)
    assert [place for place, is_timed in enumerate(timed) if is_timed] == [0, 16]


def test_the_end_of_an_iterable_leaves_nothing_to_the_next_epoch(watched):
    """A batch that was never full is dropped, and the end itself is no sample."""

    class Short(IterableDataset):
        def __iter__(self):
            for each in range(3):
                time.sleep(0.03 if each == 2 else 0.001)
                yield each

    clock = watched(items := Short())
    stream = iter(items)
    assert [next(stream), next(stream)] == [0, 1]
    assert (clock.take(0.0).slowest_index, clock._batch._untimed) == (1, 0)
    assert list(stream) == [2]
    assert clock.take(0.0) is None  # of what the end left
    next(iter(items))  # an epoch that is given up
    stream = iter(items)
    assert clock._batch._start is None  # or the time between the epochs would be this one's
    assert [next(stream), next(stream)] == [0, 1]
    work = clock.take(0.0)
    assert (work.slowest_index, work.slowest_s) == (1, work.median_s)


def test_what_an_iterable_does_before_its_first_sample_is_no_sample_s_time(watched):
    """Opening files, or filling a buffer to shuffle in: the start of an epoch, and no slow sample."""

    class Opening(IterableDataset):
        def __iter__(self):
            time.sleep(0.2)
            yield from range(4)

    clock = watched(items := Opening())
    assert list(iter(items)) == [0, 1, 2, 3]
    stream = iter(items)
    assert [next(stream) for _ in range(4)] == [0, 1, 2, 3]
    work = clock.take(0.0)
    assert work.busy_s < 0.1
    assert work.slowest_index != 0
    next(iter(items))
    assert clock.take(0.0) is None  # a batch of one


def test_an_iterable_may_walk_through_itself(watched):
    """Inner steps belong to the outer one, and a generator that it asks itself for is its own."""

    class Twice(IterableDataset):
        def __init__(self, depth=2):
            self.depth = depth

        def __iter__(self):
            if self.depth == 0:
                yield from range(2)
                return
            self.depth -= 1
            inner = iter(self)
            yield from inner
            inner.close()
            self.depth += 1

    clock = watched(items := Twice())
    stream = iter(items)
    assert [next(stream), next(stream)] == [0, 1]
    assert clock.take(0.0).median_s is not None
    assert list(stream) == []


def test_a_process_that_is_no_worker_says_nothing():
    clock = WorkerClock()
    assert clock.hello([1]) is None
    assert clock.take(0.1) is None


class Loud:
    """Its repr is an error, and would be an address anyway."""

    def __repr__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([torch.zeros(1), torch.ones(1)], None),
        ([(torch.zeros(1), Loud())], "hold more than"),
        ([torch.zeros(1), torch.eye(2).to_sparse()], "hold more than"),
        (torch.zeros(4), "makes its batches itself"),
        (None, "makes its batches itself"),
    ],
)
def test_samples_that_cannot_be_compared_give_a_reason(watched, samples, reason):
    """Instead of a claim that they are the same."""
    hello = watched(Whole()).hello(samples)
    assert (hello.prints_reason or "").count(reason or "") > 0
    assert len(hello.prints) == (2 if reason is None else 0)


def test_an_error_while_comparing_becomes_the_reason(watched, monkeypatch):
    def fail(sample):
        raise ValueError("odd")

    monkeypatch.setattr("loadtune.measure.worker_clock.fingerprint", fail)
    hello = watched(Whole()).hello([1])
    assert (hello.prints, hello.prints_reason) == ((), "its samples cannot be compared: ValueError: odd")


def test_workers_of_an_iterable_that_is_not_sharded_repeat_each_other():
    """Two live workers; each says what it is, and what a sample takes."""
    began_s = time.monotonic()
    loader = build_loader(describe_dataset(Whole(), "it is"), Settings(num_workers=2, batch_size=4), 0)
    stamps = [item.stamp for item in itertools.islice(iter(loader), 6)]
    setup = summarise_setup(stamps, 2, "fork", began_s)
    assert setup.repeated_ratio == 1.0
    assert setup.threads == 1
    assert 0 < setup.start_s < time.monotonic() - began_s
    times = summarise_times(stamps, 4)
    assert times.busy_s_per_sample > 0
    assert times.cpu_s_per_sample <= 2 * times.busy_s_per_sample
    assert times.slowest_in in {"worker 0", "worker 1"}


class Suspicious(Items):
    """Does in a worker what would show that it is watched: pickles itself, asks for classes, hands on its arguments."""

    def __getitem__(self, place, *, is_last=False):
        if not is_last:
            return self.__getitem__(place, is_last=True)
        assert type(self) is Suspicious
        assert [type(each) for each in self.transform.transforms] == [Slow, type, Slower]
        pickled = pickle.loads(pickle.dumps(self))  # noqa: S301 - made in the line itself
        assert pickled.transform.transforms[0].colour == "blue"
        return super(type(self), self).__getitem__(place)


def test_code_in_a_live_worker_does_not_notice():
    """Its loader is the user's own."""
    loader = build_loader(describe_dataset(Suspicious(), "it is"), Settings(num_workers=1, batch_size=4), 0)
    stamps = [item.stamp for item in itertools.islice(iter(loader), 2)]
    assert stamps[0].hello.reason is None
    assert all(dict(stamp.work.parts)["Slow"] > 0 for stamp in stamps)


def test_a_plain_loader_watches_nothing():
    """The comparison with a plain loop must not pay for it."""
    loader = build_loader(describe_dataset(Items(), "it is"), Settings(num_workers=1, batch_size=4), 0, is_plain=True)
    assert loader.worker_init_fn._is_plain


def test_our_own_data_set_is_timed_in_two_parts(watched):
    """Reading and decoding, then what is done to the picture."""
    from loadtune.records.settings import WorkloadSpec
    from loadtune.workload.segmentation import SegmentationDataset

    class Source:
        def __len__(self):
            return 4

        def read(self, number):
            return torch.zeros(3, 40, 40, dtype=torch.uint8), torch.zeros(1, 40, 40, dtype=torch.uint8)

    items = SegmentationDataset(Source(), WorkloadSpec(crop_px=16, base_size_px=16))
    clock = watched(items)
    image, _ = items[0]
    assert image.shape == (3, 16, 16)
    assert [name for name, _ in clock.take(0.0).parts] == ["reading and decoding", "scaling, cropping and labels"]
