"""What a batch took, and what the kernel says of a thread's time, or does not."""

import hashlib
import threading
import time
from types import SimpleNamespace

import pytest

from loadtune.measure.batch_clock import BatchClock, read_delay_ns


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("258541220 48813738 22\n", 48813738),
        ("258541220 0 22\n", 0),
        ("0 0 0\n", None),
        ("258541220 0 0\n", None),
        ("", None),
        ("one two three", None),
        ("1 2", None),
    ],
)
def test_a_kernel_without_statistics_shows_zeros(tmp_path, line, expected):
    """Which is no delay of zero: a thread that reads its own line has had a core."""
    (tmp_path / "schedstat").write_text(line)
    assert read_delay_ns(str(tmp_path / "schedstat")) == expected
    assert read_delay_ns(str(tmp_path / "none")) is None


def test_time_on_a_core_is_known_without_the_kernel_s_statistics(monkeypatch):
    monkeypatch.setattr("loadtune.measure.batch_clock.read_delay_ns", lambda: None)
    clock = BatchClock()
    clock.end(clock.begin(), 4)
    hashlib.sha256(bytes(2_000_000)).digest()
    work = clock.take(0.0)
    assert work.delayed_s is None
    assert 0 < work.cpu_s <= 1.5 * work.busy_s


def test_what_other_threads_compute_is_told_apart():
    """As decoders do that work in threads of their own while the worker waits for them."""
    clock = BatchClock()
    began = clock.begin()
    helper = threading.Thread(target=lambda: hashlib.sha256(bytes(20_000_000)).digest())
    helper.start()
    helper.join()
    clock.end(began, 0)
    work = clock.take(0.0)
    assert work.process_cpu_s > 2 * work.cpu_s


def test_a_wait_for_a_core_is_no_slow_sample(monkeypatch):
    """Where samples are worth that reading: 3 of its 4 s were waited. A reading that fails takes nothing off."""
    delays_ns, now_s = iter([0, 10**9, 4 * 10**9, None, 5 * 10**9, 5 * 10**9]), iter([0.0, 4.0, 10.0, 12.0, 12.0])
    made_up = SimpleNamespace(perf_counter=lambda: next(now_s), thread_time=lambda: 0.0, process_time=lambda: 0.0)
    clock = BatchClock()
    clock.mean_sample_s = 0.5
    monkeypatch.setattr("loadtune.measure.batch_clock.read_delay_ns", lambda: next(delays_ns))
    monkeypatch.setattr("loadtune.measure.batch_clock.time", made_up)
    clock.end(clock.begin(), 0)
    clock.end(clock.begin(), 1)
    work = clock.take(0.0)
    assert (work.median_s, work.slowest_s, work.slowest_index) == (1.5, 2.0, 1)
    assert (work.busy_s, work.delayed_s) == (12.0, 5.0)


def test_a_forgotten_batch_is_never_told():
    clock = BatchClock()
    clock.end(clock.begin(), 3)
    clock.forget()
    assert clock.take(0.0) is None


def test_a_skipped_sample_counts_as_the_others_do():
    """Three of four were timed; collate_fn has all four before it as it is."""
    clock = BatchClock()
    clock.begin()
    time.sleep(0.3)
    clock.skip()
    for index in range(1, 4):
        began = clock.begin()
        clock.part("decode", time.sleep, 0.02)
        clock.end(began, index)
    began_s = time.perf_counter()
    time.sleep(0.02)
    work = clock.take(time.perf_counter() - began_s)
    assert work.busy_s - work.collate_s == pytest.approx(4 * work.median_s, rel=0.3)
    assert dict(work.parts)["decode"] == pytest.approx(4 * 0.02, rel=0.3)
    assert work.slowest_index in {1, 2, 3}
