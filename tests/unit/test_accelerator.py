"""What follows from a device's marks? A scripted device whose work ends late, and the contract every device keeps."""

import time
from collections import UserDict, namedtuple
from itertools import pairwise

import pytest
import torch

from loadtune.measure.accelerator import (
    Step,
    Timeline,
    busy_spans,
    count_bytes,
    count_samples,
    count_tensors,
    intervals_s,
    map_tensors,
    stall_ratio,
)
from loadtune.measure.cpu import CpuAccelerator
from loadtune.measure.replay import ReplayAccelerator, ReplayOutOfMemoryError
from loadtune.records.profile import ProfilePoint, ReplayProfile


class Scripted:
    """A device on a clock of its own: work is queued, ends later, and the host's clock moves only when told or waiting.

    Args:
        copy_s: Of each copy.
        step_s: Of each step, repeated.
        launch_s: Host time that queueing a step takes.
    """

    uuid = None

    def __init__(self, copy_s=0.0, step_s=(1.0,), launch_s=0.0, run_ahead_steps=None):
        self.run_ahead_steps = run_ahead_steps
        self.host_s = 100.0
        self.waited = []
        self._copy_s, self._step_s, self._launch_s = copy_s, list(step_s), launch_s
        self._free_s = 0.0
        self._steps = 0

    def upload(self, batch):
        self._free_s = max(self._free_s, self.host_s) + self._copy_s
        return batch

    def step(self, batch):
        self.host_s += self._launch_s
        self._free_s = max(self._free_s, self.host_s) + self._step_s[self._steps % len(self._step_s)]
        self._steps += 1

    def record(self):
        return max(self._free_s, self.host_s)

    def is_reached(self, mark):
        return self.host_s >= mark

    def wait(self, mark):
        self.waited.append(mark)
        self.host_s = max(self.host_s, mark)

    def monotonic_s(self, mark):
        assert self.is_reached(mark), "an event was read before it was reached"
        return mark

    def peak_memory_bytes(self):
        return None

    def is_out_of_memory(self, error):
        return False


def make_step(started_s, finished_s, idle_s=0.0, **changes):
    values = {"samples": 4, "data_wait_s": 0.0, "copy_s": 0.0, "compute_s": finished_s - started_s, **changes}
    return Step(idle_s=idle_s, started_s=started_s, finished_s=finished_s, **values)


def test_steps_come_back_only_when_the_device_has_finished_them():
    """Events are read late: queueing waits for nothing, and nothing is read too early."""
    device = Scripted(step_s=[1.0])
    timeline = Timeline(device)
    for _ in range(3):
        timeline.queue("batch", 4, 0.0)
    assert list(timeline.finished()) == []
    device.host_s = 101.5
    assert [step.finished_s for step in timeline.finished()] == [101.0]
    device.host_s = 103.0
    assert [step.finished_s for step in timeline.finished()] == [102.0, 103.0]
    assert device.waited == []


@pytest.mark.parametrize("run_ahead", [1, 2, 4])
def test_the_host_runs_ahead_no_further_than_the_device_allows(run_ahead):
    """With n steps under way the host waits for the oldest before it queues another."""
    device = Scripted(step_s=[1.0], run_ahead_steps=run_ahead)
    timeline = Timeline(device)
    queued_at = []
    for _ in range(8):
        timeline.queue("batch", 4, 0.0)
        queued_at.append(device.host_s)
    # Step k is queued once step k - n has ended: at 100 for the first n, then a second each.
    assert queued_at == [100.0] * run_ahead + [101.0 + number for number in range(8 - run_ahead)]
    assert len(list(timeline.drain())) == 8


def test_the_decomposition_follows_the_marks():
    """Idle from the last end to the copy's start, copy, compute; the first step has no idle before it."""
    device = Scripted(copy_s=0.25, step_s=[1.0])
    timeline = Timeline(device)
    timeline.queue("batch", 4, 0.5)
    device.host_s = 103.0  # the loader kept the host for 1.75 s after the device was done
    timeline.queue("batch", 5, 3.0)
    device.host_s = 110.0
    first, second = timeline.finished()
    assert (first.idle_s, first.copy_s, first.compute_s, first.data_wait_s) == (0.0, 0.25, 1.0, 0.5)
    assert (second.idle_s, second.copy_s, second.compute_s) == (1.75, 0.25, 1.0)
    assert (second.samples, second.data_wait_s) == (5, 3.0)
    assert second.finished_s - first.finished_s == second.idle_s + second.copy_s + second.compute_s


def test_a_resident_batch_is_not_copied():
    """The ceiling has no copy in it."""
    device = Scripted(copy_s=0.25)
    timeline = Timeline(device)
    timeline.queue("batch", 4, 0.0, is_resident=True)
    (step,) = timeline.drain()
    assert step.copy_s == 0.0


def test_draining_waits_for_all_but_some():
    """Warm-up leaves two queued, so that the idle between steps is that of a running loop."""
    device = Scripted(step_s=[1.0])
    timeline = Timeline(device)
    for _ in range(5):
        timeline.queue("batch", 4, 0.0)
    assert len(list(timeline.drain(left_max=2))) == 3
    assert device.host_s == 103.0
    assert len(list(timeline.drain(left_max=9))) == 0
    assert len(list(timeline.drain())) == 2
    assert list(timeline.drain()) == []


def test_a_device_that_is_fed_in_time_has_no_stall():
    """Steps end to end."""
    steps = [make_step(float(n), n + 1.0) for n in range(5)]
    assert stall_ratio(steps, 0.0) == 0.0


def test_a_stall_is_the_idle_beyond_the_reference_by_the_whole_time():
    """One second of step, one of idle: half; launch gaps do not count."""
    steps = [make_step(2.0 * n, 2.0 * n + 1.0, idle_s=1.0) for n in range(5)]
    assert stall_ratio(steps, 0.0) == pytest.approx(0.5)
    assert stall_ratio(steps, 0.5) == pytest.approx(0.25)
    assert stall_ratio(steps, 2.0) == 0.0


def test_the_first_step_s_idle_lies_before_the_time_that_is_looked_at():
    """A long wait for the first batch is start-up, no stall."""
    steps = [make_step(50.0, 51.0, idle_s=49.0), make_step(51.0, 52.0), make_step(52.0, 53.0)]
    assert stall_ratio(steps, 0.0) == 0.0


def test_under_two_steps_there_is_no_stall_to_tell():
    """None, not 0."""
    assert stall_ratio([], 0.0) is None
    assert stall_ratio([make_step(0.0, 1.0)], 0.0) is None
    assert stall_ratio([make_step(0.0, 1.0), make_step(0.0, 1.0)], 0.0) is None


def test_busy_spans_close_gaps_under_a_millisecond():
    """A larger gap is a stall that NVML could see."""
    steps = [make_step(0.0, 1.0), make_step(1.0005, 2.0), make_step(2.1, 3.0), make_step(2.9, 2.95)]
    assert busy_spans(steps) == ((0.0, 2.0), (2.1, 3.0))
    assert busy_spans([]) == ()


def test_intervals_lie_between_neighbouring_ends():
    """One fewer than steps."""
    assert intervals_s([make_step(0.0, 1.0), make_step(1.0, 2.5), make_step(3.0, 3.5)]) == [1.5, 1.0]


Pair = namedtuple("Pair", ["image", "label"])


class Own:
    """A batch class of the user's, with a `.to` of its own."""

    def __init__(self):
        self.moved = None

    def to(self, device):
        self.moved = device
        return self


def test_tensors_are_moved_wherever_they_hang_and_the_structure_stays():
    """Dicts, lists, tuples, named tuples; an object with `.to` is moved whole, the rest passes."""
    own = Own()
    batch = {"x": [torch.ones(2), (torch.ones(3), "name", 7)], "pair": Pair(torch.ones(1), None), "own": own}
    moved = map_tensors(batch, lambda item: item.to("cpu") if isinstance(item, Own) else item * 2)
    assert moved["x"][0].tolist() == [2, 2]
    assert moved["x"][1][0].tolist() == [2, 2, 2]
    assert moved["x"][1][1:] == ("name", 7)
    assert isinstance(moved["pair"], Pair)
    assert moved["own"] is own
    assert own.moved == "cpu"


def test_bytes_tensors_and_samples_of_a_batch_are_counted():
    """Bytes of all tensors; the samples are the first dimension of the first."""
    batch = {"image": torch.zeros(4, 3, 8, 8), "label": torch.zeros(4, dtype=torch.int64), "names": ["a"] * 4}
    assert count_bytes(batch) == 4 * 3 * 64 * 4 + 4 * 8
    assert count_tensors(batch) == 2
    assert count_samples(batch, 9) == 4
    assert count_samples(torch.zeros(5, 2), 9) == 5
    assert count_samples([torch.zeros(()), torch.zeros(6)], 9) == 6
    assert count_samples("text", 9) == 9
    assert count_samples(None, 9) == 9
    assert (count_bytes(None), count_tensors("text")) == (0, 0)


class Encoding(UserDict):
    """Moved whole, and a mapping, as Hugging Face's BatchEncoding."""

    def to(self, device):
        return self


def test_tensors_of_objects_that_are_moved_whole_are_counted():
    """They travel through shared memory like any others; what points back at its owner is not walked for ever."""
    encoding = Encoding(input_ids=torch.zeros(4, 8, dtype=torch.int64), names=["a"] * 4)
    assert (count_bytes(encoding), count_tensors([encoding, encoding])) == (4 * 8 * 8, 2)
    graph = Own()
    graph.store, graph.x, graph.owner = {"edges": torch.zeros(2, 5), "graph": graph}, torch.zeros(3), graph
    assert (count_bytes(graph), count_tensors(graph)) == (4 * 10 + 4 * 3, 2)


def test_samples_that_could_not_be_stacked_are_counted_all_the_same():
    """A detector's batch is a tuple of images and one of targets: not 3, the channels."""
    images, targets = tuple(torch.zeros(3, 8, 8) for _ in range(8)), tuple({} for _ in range(8))
    assert count_samples((images, targets), 8) == 8
    assert count_samples([torch.zeros(3, 8, 8)] * 8, 8) == 8
    assert count_samples((torch.zeros(16, 3), torch.zeros(16)), 16) == 16


def profile(**changes):
    points = (ProfilePoint(batch_size=8, device_s=0.02, copy_s=0.005, memory_bytes=800),)
    return ReplayProfile(name="test", origin="written by hand", points=points, **changes)


def make_cpu():
    return CpuAccelerator(lambda batch: time.sleep(0.002))


def make_replay():
    return ReplayAccelerator(profile(), 8, seed=0)


def make_cuda():
    from loadtune.measure.cuda import CudaAccelerator

    return CudaAccelerator(lambda batch: batch @ batch, 0)


DEVICES = [
    pytest.param(make_cpu, id="cpu"),
    pytest.param(make_replay, id="replay"),
    pytest.param(make_cuda, id="cuda", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize(("steps", "waits"), [(0, True), (1, False), (2, False)])
def test_a_replayed_step_waits_where_the_profile_says_so(steps, waits):
    """As a step with .item() in it: when it returns, the device has done all of it."""
    device = ReplayAccelerator(profile(run_ahead_steps=steps), 8, seed=0)
    began_s = time.monotonic()
    device.step(device.upload(torch.ones(8)))
    assert (time.monotonic() - began_s >= 0.02) == waits
    assert device.run_ahead_steps == (steps or None)


@pytest.mark.parametrize("make", [*DEVICES, pytest.param(lambda: Scripted(step_s=[0.01]), id="scripted")])
def test_every_device_keeps_the_contract(make):
    """Marks rise in the order they were recorded, are reached after a wait, and stay so."""
    device = make()
    batch, marks = torch.ones(8, 8), []
    for _ in range(4):
        marks.append(device.record())
        uploaded = device.upload(batch)
        marks.append(device.record())
        device.step(uploaded)
        marks.append(device.record())
    device.wait(marks[-1])
    assert all(device.is_reached(mark) for mark in marks)
    times = [device.monotonic_s(mark) for mark in marks]
    assert times == sorted(times)
    assert device.run_ahead_steps is None or device.run_ahead_steps >= 1
    assert device.peak_memory_bytes() is None or device.peak_memory_bytes() > 0
    assert not device.is_out_of_memory(RuntimeError("something else"))
    device.wait(marks[0])
    timeline = Timeline(device)
    for _ in range(3):
        timeline.queue(batch, 8, 0.0)
    steps = list(timeline.drain())
    assert len(steps) == 3
    assert all(step.idle_s >= 0 and step.copy_s >= 0 and step.compute_s >= 0 for step in steps)


@pytest.mark.parametrize("make", DEVICES)
def test_every_real_device_tells_time_on_the_host_s_clock(make):
    """time.monotonic() before and after brackets the marks."""
    device = make()
    before_s = time.monotonic()
    first = device.record()
    device.step(device.upload(torch.ones(8, 8)))
    last = device.record()
    device.wait(last)
    after_s = time.monotonic()
    assert before_s - 0.01 <= device.monotonic_s(first) <= device.monotonic_s(last) <= after_s + 0.01


def test_a_replayed_device_takes_its_profile_s_time_and_no_longer(monkeypatch):
    """On a clock that only waiting moves: copy, then step, one after the other."""
    clock = FakeClock(monkeypatch)
    device = make_replay()
    device.step(device.upload(None))
    assert device.record() == pytest.approx(1000.025)
    device.step(device.upload(None))
    mark = device.record()
    assert mark == pytest.approx(1000.05)
    assert not device.is_reached(mark)
    device.wait(mark)
    assert clock.now == pytest.approx(1000.05)
    assert device.monotonic_s(mark) == mark


class FakeClock:
    """time.monotonic, time.sleep and time.thread_time of replay, moved by sleeping and by computing alone."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        self.thread_s = 0.0
        monkeypatch.setattr("loadtune.measure.replay.time", self)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def thread_time(self):
        self.now += 0.001
        self.thread_s += 0.001
        return self.thread_s


def test_a_replayed_step_cannot_end_before_the_host_has_launched_it(monkeypatch):
    """Eager training burns the host's CPU, however quick the device."""
    clock = FakeClock(monkeypatch)
    points = (ProfilePoint(batch_size=8, device_s=0.001, host_cpu_s=0.05),)
    device = ReplayAccelerator(ReplayProfile(name="x", origin="estimated", points=points), 8, seed=0)
    device.step(None)
    assert clock.now >= 1000.05
    assert device.record() == pytest.approx(clock.now)


def test_a_replayed_spread_is_the_same_in_every_trial_and_never_negative(monkeypatch):
    """Seeded; a step does not end before it began."""
    FakeClock(monkeypatch)
    points = (ProfilePoint(batch_size=8, device_s=0.01, spread_s=0.02),)
    noisy = ReplayProfile(name="x", origin="estimated", points=points)

    def marks(seed):
        device, found = ReplayAccelerator(noisy, 8, seed), []
        for _ in range(50):
            device.step(None)
            found.append(device.record())
        return [right - left for left, right in pairwise(found)]

    assert len({round(each, 9) for each in marks(1)}) > 10
    assert min(marks(1)) >= 0
    assert [round(a - b, 6) for a, b in zip(marks(2), marks(2), strict=True)] == [0.0] * 49


def test_a_batch_that_does_not_fit_is_refused_where_a_real_device_would():
    """Not when the device is made: the trial could not say then that its device ran out of memory."""
    device = ReplayAccelerator(profile(device_memory_bytes=799), 8, seed=0)
    with pytest.raises(ReplayOutOfMemoryError, match="needs 800 bytes") as raised:
        device.upload(None)
    assert device.is_out_of_memory(raised.value)
    assert ReplayAccelerator(profile(device_memory_bytes=800), 8, seed=0).upload("batch") == "batch"
    assert make_replay().peak_memory_bytes() == 800


def test_a_cpu_step_is_done_when_it_returns():
    """So a mark is reached at once, and memory is watched from outside."""
    taken = []
    device = CpuAccelerator(taken.append)
    device.step(device.upload("batch"))
    assert taken == ["batch"]
    assert device.is_reached(device.record())
    assert device.peak_memory_bytes() is None
    assert not device.is_out_of_memory(MemoryError())
