"""A real process tree under the real sampler: whose CPU is whose, and what does the watching cost?"""

import subprocess
import sys
import time

import psutil
import pytest

from loadtune.monitor.sampler import Sampler

WATCH_S = 2.0

TREE = """
import os, sys, time
end, parent = time.monotonic() + 60, os.getpid()
if os.fork() == 0:
    kept = bytearray(50_000_000)
    print("ready", flush=True)
    while time.monotonic() < end and os.getppid() == parent:
        sum(range(1000))
    os._exit(0)
sys.stdin.read()
"""


@pytest.fixture
def tree():
    """A main process that sleeps and one child that computes and holds 50 MB."""
    process = subprocess.Popen([sys.executable, "-c", TREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.communicate(timeout=30)


def read_child_cpu_s(main_pid):
    """Return the CPU seconds of the one child, read apart from the code under test."""
    (child,) = psutil.Process(main_pid).children()
    times = child.cpu_times()
    return times.user + times.system


def test_a_busy_child_is_a_worker_and_its_parent_is_not(tree):
    """The child's core counts as a worker's, memory covers the tree, and watching costs next to nothing."""
    sampler = Sampler((tree.pid,))
    sampler.start()
    started_s, before_s = time.monotonic(), read_child_cpu_s(tree.pid)
    time.sleep(WATCH_S)
    ended_s, after_s = time.monotonic(), read_child_cpu_s(tree.pid)
    sampler.mark_measuring(started_s, ended_s)
    pss_bytes, watching_s = sampler.read_pss(), sampler.cpu_s
    trace = sampler.stop()
    assert trace.mean_worker_cores == pytest.approx((after_s - before_s) / (ended_s - started_s), rel=0.2)
    # Only where others are busy has the child less than half a core, and then the trace shows them.
    assert 0.5 < trace.mean_worker_cores < 1.2 or trace.mean_foreign_cores + trace.mean_steal_cores > 1
    assert trace.mean_main_cores < 0.1 < trace.mean_worker_cores
    assert trace.peak_memory_bytes > pss_bytes > 50_000_000
    assert sampler.memory_bytes > 50_000_000
    assert 10 <= len(trace.host) <= 30
    assert watching_s / WATCH_S < 0.05
    assert trace.oom_kills == 0


def test_a_tree_that_dies_leaves_its_trace(tree):
    """The last readings stay; nothing is raised."""
    sampler = Sampler((tree.pid,))
    sampler.start()
    time.sleep(0.5)
    tree.kill()
    tree.wait(30)
    time.sleep(0.3)
    trace = sampler.stop()
    assert trace.mean_worker_cores > 0
    assert trace.peak_memory_bytes > 50_000_000
    assert trace.host[-1].memory_bytes < trace.peak_memory_bytes
