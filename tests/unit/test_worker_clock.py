"""What a worker's clock sees: samples, transforms, iterators, and data sets that it leaves alone."""

import itertools
import time

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset

from loadtune.measure.loader import build_loader
from loadtune.measure.worker_clock import WorkerClock, fingerprint
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


class Items(Dataset):
    def __init__(self):
        self.transform = Compose([Slow(), float])

    def __len__(self):
        return 64

    def __getitem__(self, index):
        time.sleep(0.02 if index == 3 else 0.0)
        return torch.tensor(self.transform(index))


class Whole(IterableDataset):
    def __iter__(self):
        yield from (torch.tensor([each]) for each in range(40))


class Recursive(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self[index + 1] if index < 2 else index


def watched(dataset):
    clock = WorkerClock()
    clock.watch(dataset)
    return clock


def test_the_slowest_sample_is_named():
    """By its index, with what the others take; the second batch begins anew."""
    items = Items()
    clock = watched(items)
    for index in range(6):
        items[index]
    work = clock.take(0.001)
    assert work.slowest_index == 3
    assert work.slowest_s >= 0.02 > work.median_s >= 0.002
    assert work.busy_s >= 0.03
    assert work.collate_s == 0.001
    items[5]
    assert clock.take(0.0).slowest_index == 5


def test_transforms_are_timed_by_name_and_look_as_before():
    items = Items()
    clock = watched(items)
    items[0]
    parts = dict(clock.take(0.0).parts)
    assert parts["Slow"] >= 0.002 > parts["float"]
    assert items.transform.transforms[0].colour == "blue"


def test_a_watched_data_set_is_still_what_it_was():
    """Of its class by name and by isinstance; other data sets of the class are left alone."""
    items = Items()
    watched(items)
    assert isinstance(items, Items)
    assert type(items).__name__ == "Items"
    assert type(Items()) is Items


def test_the_data_set_under_a_subset_is_watched():
    subset = Subset(Items(), [3, 4])
    clock = watched(subset)
    subset.__getitems__([0, 1])
    assert clock.take(0.0).slowest_index == 3


def test_a_sample_that_asks_for_another_counts_once():
    clock = watched(items := Recursive())
    assert items[0] == 2
    work = clock.take(0.0)
    assert (work.slowest_index, work.slowest_s) == (0, work.median_s)


@pytest.mark.parametrize("dataset", [[1, 2, 3], (1, 2), torch.arange(4)])
def test_what_cannot_be_watched_is_left_alone(dataset):
    """And a reason is given."""
    kind = type(dataset)
    clock = watched(dataset)
    assert type(dataset) is kind
    assert clock.reason
    assert clock.take(0.0) is None


def test_a_class_that_refuses_subclasses_is_left_alone():
    class Final(Dataset):
        def __init_subclass__(cls):
            raise TypeError("final")

    clock = watched(item := Final())
    assert type(item) is Final
    assert "final" in clock.reason


def test_an_error_of_the_data_set_passes_through():
    class Broken(Dataset):
        def __getitem__(self, index):
            raise KeyError(index)

    clock = watched(items := Broken())
    with pytest.raises(KeyError):
        items[1]
    assert clock.take(0.0).busy_s >= 0


class Cheap(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return index


class CheapStream(IterableDataset):
    def __iter__(self):
        yield from range(10**6)


@pytest.mark.parametrize("kind", [Cheap, CheapStream])
def test_cheap_samples_are_timed_in_one_batch_of_sixteen(kind):
    """Of data handed out from memory, timing each sample would be most of the time."""
    clock = watched(items := kind())
    stream = iter(items) if kind is CheapStream else None
    timed = []
    for _ in range(33):
        for index in range(8):
            assert (items[index] if stream is None else next(stream)) >= 0
        timed.append(clock.take(0.0) is not None)
    assert [place for place, is_timed in enumerate(timed) if is_timed] == [0, 16, 32]


def test_a_process_that_is_no_worker_says_nothing():
    clock = WorkerClock()
    assert clock.hello([1]) is None
    assert clock.take(0.1) is None


def test_fingerprints_tell_samples_apart():
    one, two = {"x": torch.zeros(3), "y": 1}, {"x": torch.zeros(3), "y": 2}
    assert fingerprint(one) == fingerprint({"x": torch.zeros(3), "y": 1})
    assert len({fingerprint(each) for each in (one, two, torch.zeros(3), torch.zeros(3, 1), "a", b"a")}) == 6


def test_workers_of_an_iterable_that_is_not_sharded_repeat_each_other():
    """Two live workers; each says what it is, and what a sample takes."""
    began_s = time.monotonic()
    loader = build_loader(describe_dataset(Whole(), "it is"), Settings(num_workers=2, batch_size=4), 0)
    stamps = [item.stamp for item in itertools.islice(iter(loader), 6)]
    setup = summarise_setup(stamps, 2, "fork", began_s)
    assert setup.repeated_ratio == 1.0
    assert setup.threads == 1
    assert 0 < setup.start_s < time.monotonic() - began_s
    times = summarise_times(stamps)
    assert times.busy_s_per_sample > 0
    assert times.cpu_s_per_sample is None or times.cpu_s_per_sample <= 2 * times.busy_s_per_sample


def test_a_plain_loader_watches_nothing():
    """The comparison with a plain loop must not pay for it."""
    loader = build_loader(describe_dataset(Items(), "it is"), Settings(num_workers=1, batch_size=4), 0, is_plain=True)
    assert loader.worker_init_fn._is_plain


def test_our_own_data_set_is_timed_in_two_parts():
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
