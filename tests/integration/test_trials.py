"""Does every trial end in a result, and leave nothing behind? Real processes, each broken in its own way."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from torch.utils.data import Dataset

from loadtune.advice.feasibility import Obstacle
from loadtune.advice.search import Leg
from loadtune.errors import TargetError
from loadtune.payload import share_objects
from loadtune.records.measurement import Cause, TrialState
from loadtune.records.messages import InspectTask, Sources
from loadtune.records.settings import WorkloadSpec
from tests.integration.conftest import (
    group_members,
    make_runner,
    make_spec,
    orphaned_files,
    quick,
    replay,
    wait_until,
)

TROUBLE = [
    # target, num_workers, state, cause, what its message or log must hold
    ("raises", 0, TrialState.FAILED, Cause.USER_CODE, "ValueError: the annotation of this sample is empty"),
    ("raises", 2, TrialState.FAILED, Cause.USER_CODE, "ValueError: the annotation of this sample is empty"),
    ("raises_two_lines", 2, TrialState.FAILED, Cause.USER_CODE, "ValueError: the annotation"),
    ("raises_odd_name", 0, TrialState.FAILED, Cause.USER_CODE, r"ValueError: no mask for photo-\udcff.png"),
    ("raises_odd_name", 2, TrialState.FAILED, Cause.USER_CODE, r"ValueError: no mask for photo-\udcff.png"),
    ("raises_broken_pipe", 0, TrialState.FAILED, Cause.USER_CODE, "the decoder's pipe broke"),
    ("raises_broken_pipe", 2, TrialState.FAILED, Cause.USER_CODE, "the decoder's pipe broke"),
    ("raises_memory_error", 0, TrialState.OUT_OF_MEMORY, Cause.HOST_MEMORY, "MemoryError"),
    ("raises_memory_error", 2, TrialState.OUT_OF_MEMORY, Cause.HOST_MEMORY, "MemoryError"),
    ("raises_open_files", 0, TrialState.FAILED, Cause.OPEN_FILES, "Too many open files"),
    ("raises_open_files", 2, TrialState.FAILED, Cause.OPEN_FILES, "Too many open files"),
    ("raises_full_shared_memory", 2, TrialState.OUT_OF_MEMORY, Cause.SHARED_MEMORY, "No space left on device"),
    ("raises_bad_samples", 0, TrialState.FAILED, Cause.BAD_SAMPLES, "64 samples in a row cannot be read"),
    ("raises_bad_samples", 2, TrialState.FAILED, Cause.BAD_SAMPLES, "64 samples in a row cannot be read"),
    ("refuses_to_be_made", 0, TrialState.FAILED, Cause.USER_CODE, "raised LookupError: no annotations here"),
    ("interrupts_itself", 0, TrialState.FAILED, Cause.USER_CODE, "KeyboardInterrupt"),
    ("interrupts_itself", 2, TrialState.CRASHED, Cause.WORKER, "DataLoader worker"),
    ("calls_sys_exit", 0, TrialState.FAILED, Cause.USER_CODE, "SystemExit: goodbye"),
    ("calls_sys_exit", 2, TrialState.CRASHED, Cause.WORKER, "DataLoader worker"),
    ("segfaults", 0, TrialState.CRASHED, Cause.SIGNAL, "SIGSEGV"),
    ("kills_itself", 0, TrialState.CRASHED, Cause.SIGNAL, "SIGKILL"),
    ("exits_7", 0, TrialState.CRASHED, Cause.EXIT, "exit code 7"),
    ("worker_exits", 2, TrialState.CRASHED, Cause.WORKER, "DataLoader worker"),
    ("worker_kills_itself", 2, TrialState.CRASHED, Cause.WORKER, "DataLoader worker"),
    ("worker_segfaults", 2, TrialState.CRASHED, Cause.WORKER, "DataLoader worker"),
    ("worker_kills_its_parent", 2, TrialState.CRASHED, Cause.SIGNAL, "SIGKILL"),
    ("hangs", 0, TrialState.TIMED_OUT, Cause.HANG, "nothing was heard for 2 s"),
    ("hangs_at_once", 2, TrialState.TIMED_OUT, Cause.HANG, "nothing was heard for 2 s"),
    ("hangs_deaf", 2, TrialState.TIMED_OUT, Cause.HANG, "nothing was heard for 2 s"),
    ("hangs_with_a_child", 2, TrialState.TIMED_OUT, Cause.HANG, "nothing was heard for 2 s"),
]
SILENCE_S = 2.0


@pytest.fixture
def pids(launcher, monkeypatch):
    """The process ids of the trials that a test starts."""
    started = []
    start = launcher.start

    def noting(task):
        process = start(task)
        started.append(process.pid)
        return process

    monkeypatch.setattr(launcher, "start", noting)
    return started


@pytest.fixture(autouse=True)
def _leaves_nothing(pids, launcher):
    """After every test: no process of the groups, no shared memory of dead makers, no trial on the launcher's list."""
    before = orphaned_files()
    yield
    assert [pid for pid in pids if group_members(pid)] == []
    assert orphaned_files() - before == set()
    assert launcher._alive == {}


def run_good(run):
    return run(make_spec("tests.targets.truth:instant", 1, measure=quick(measure_s=0.2, window_min_s=0.1)))


@pytest.mark.parametrize(
    ("target", "num_workers", "state", "cause", "told"), TROUBLE, ids=[f"{row[0]}-{row[1]}" for row in TROUBLE]
)
def test_trouble_ends_in_a_result_and_the_next_trial_completes(run, pids, target, num_workers, state, cause, told):
    """The table: state, cause and message; nothing is left of it; the same server runs the next trial."""
    result = run(make_spec(f"tests.targets.trouble:{target}", num_workers, measure=quick(silence_s=SILENCE_S)))
    assert (result.state, result.failure.cause) == (state, cause), result.failure
    assert told in result.failure.message
    assert "\n" not in result.failure.message
    assert result.failure.hint
    assert result.rate_per_s is None
    assert group_members(pids[0]) == set()
    assert run_good(run).state is TrialState.COMPLETE


@pytest.mark.parametrize("target", ["raises", "raises_bad_samples", "raises_memory_error"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_failure_brings_the_end_of_the_log_with_it(run, target, num_workers):
    """The user sees their own line of the traceback."""
    result = run(make_spec(f"tests.targets.trouble:{target}", num_workers))
    assert "trouble.py" in result.failure.log_tail
    assert "raise" in result.failure.log_tail


def test_exit_code_and_signal_are_kept(run):
    """They say what the message says, for programs."""
    assert run(make_spec("tests.targets.trouble:exits_7")).failure.exit_code == 7
    assert run(make_spec("tests.targets.trouble:segfaults")).failure.signal == 11


@pytest.mark.parametrize("attempt", range(8))
def test_a_dead_worker_is_told_however_its_news_and_its_batches_race(run, attempt):
    """SIGCHLD may strike anywhere in the main process, while an earlier error is being told included."""
    target = ("worker_exits", "worker_kills_itself")[attempt % 2]
    result = run(make_spec(f"tests.targets.trouble:{target}", 3))
    assert (result.state, result.failure.cause) == (TrialState.CRASHED, Cause.WORKER), result.failure


def test_a_trial_past_its_deadline_is_ended_and_says_for_how_long_it_ran(run):
    """Signs of life do not help a trial beyond its deadline."""
    result = run(make_spec("tests.targets.trouble:slow", 1, measure=quick(measure_s=60.0, cap_s=60.0)), deadline_s=1.5)
    assert (result.state, result.failure.cause) == (TrialState.TIMED_OUT, Cause.DEADLINE)
    assert result.failure.message.startswith(("no result after 2 s", "no result after 3 s"))
    assert 1.5 <= result.seconds_spent < 10


def test_what_user_code_prints_harms_nothing(run):
    """Events travel on a pipe of their own: JSON-like lines and raw bytes on stdout and stderr are only a log."""
    for num_workers in (0, 2):
        assert run(make_spec("tests.targets.trouble:chatty", num_workers)).state is TrialState.COMPLETE


def test_broken_samples_are_named_once_with_their_reason(run):
    """The data set's own account travels from the workers, and the trial completes."""
    result = run(make_spec("tests.targets.trouble:broken_samples", 2))
    found = [(bad.name, bad.reason) for bad in result.measurement.bad_samples]
    assert found == [("photo-3.png", "cut off"), ("photo-5.png", "cut off")]
    assert result.measurement.ignored_label_ratio == pytest.approx(0.1)


def test_a_batch_that_the_profile_has_no_memory_for_is_out_of_memory(run):
    """Replay refuses before anything runs, with the figures."""
    points = replay().profile.points
    needy = tuple(type(point)(batch_size=point.batch_size, device_s=0.001, memory_bytes=9 * 2**30) for point in points)
    device = replay(device_memory_bytes=2**30)
    profile = type(device.profile)(
        name="small", origin="written by hand", points=needy, device_memory_bytes=device.profile.device_memory_bytes
    )
    result = run(make_spec(device=type(device)(kind="replay", profile=profile)))
    assert (result.state, result.failure.cause) == (TrialState.OUT_OF_MEMORY, Cause.DEVICE_MEMORY)
    assert str(2**30) in result.failure.message


def test_the_parent_ends_a_trial_that_reaches_the_memory_limit(launcher):
    """Before the kernel picks a victim."""
    runner = make_runner(launcher)
    runner.memory_end_bytes = 400 * 2**20
    spec = make_spec("tests.targets.trouble:eats_memory", 2, measure=quick(measure_s=30.0, cap_s=60.0))
    result = runner.run(spec, Leg(settings=spec.settings, role="grid"), 1, time.monotonic() + 60)
    assert (result.state, result.failure.cause) == (TrialState.OUT_OF_MEMORY, Cause.HOST_MEMORY)
    assert "GiB" in result.failure.message
    assert result.trace.peak_memory_bytes > 400 * 2**20


def test_an_interrupt_of_the_parent_leaves_nothing(launcher, runner, pids, monkeypatch):
    """Ctrl-C in the middle of a trial ends its whole group; the server goes on."""
    spec = make_spec("tests.targets.trouble:hangs_at_once", 2)
    poll, polls = launcher.poll, []

    def interrupted(timeout_s):
        poll(timeout_s)
        polls.append(timeout_s)
        if len(polls) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "poll", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.run(spec, Leg(settings=spec.settings, role="grid"), 1, time.monotonic() + 60)
    assert group_members(pids[0]) == set()


def test_a_skipped_trial_carries_the_arithmetic(runner):
    """What forbids a setting is its result; nothing is started."""
    spec = make_spec()
    obstacle = Obstacle(Cause.SHARED_MEMORY, "18 batches x 1 GiB")
    result = runner.skip(spec, Leg(settings=spec.settings, role="grid", obstacle=obstacle), 3)
    assert (result.state, result.failure.cause) == (TrialState.SKIPPED, Cause.SHARED_MEMORY)
    assert (result.failure.message, result.number) == ("18 batches x 1 GiB", 3)


def test_an_interrupted_trial_is_a_result(runner):
    """The report lists the trial that Ctrl-C ended."""
    spec = make_spec()
    result = runner.interrupted(spec, Leg(settings=spec.settings, role="grid"), 1)
    assert (result.state, result.failure.cause) == (TrialState.INTERRUPTED, Cause.INTERRUPT)


def test_a_result_knows_its_spec(run):
    """Key, settings, feed and round are those asked for, and what the parent saw is with it."""
    spec = make_spec("tests.targets.truth:instant", 2, batch_size=3, cache="streaming", threads=1)
    result = run(spec)
    assert (result.spec_key, result.settings, result.feed, result.cache) == (
        spec.key,
        spec.settings,
        "loader",
        "streaming",
    )
    assert result.threads == 1
    assert result.trace.pss_bytes > 0
    assert result.trace.gpu_is_replayed
    assert 0 < result.seconds_spent < 30


class FromMain(Dataset):
    """Defined in a test module, so it can only travel by value."""

    def __len__(self):
        return 32

    def __getitem__(self, number):
        return number


def test_objects_handed_over_travel_by_value(launcher):
    """A class and a lambda of the caller's reach the trial through shared memory that vanishes with the stack."""
    FromMain.__module__ = "__main__"
    with ExitStack() as stack:
        path = share_objects({"dataset": FromMain()}, stack)
        runner = make_runner(launcher, Sources(payload_path=path))
        spec = make_spec("", 2)
        result = runner.run(spec, Leg(settings=spec.settings, role="grid"), 1, time.monotonic() + 30)
        assert result.state is TrialState.COMPLETE, result.failure
        looked = runner.inspect(InspectTask(workload=WorkloadSpec(), sources=Sources(payload_path=path), batch_size=4))
    assert looked.sample_count == 32
    assert looked.sample_bytes == 8


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("tests.targets.trouble:refuses_to_be_made", "no annotations here"),
        ("tests.targets.trouble:no_such_name", "has no attribute"),
        ("no.such.module:dataset", "No module named"),
        ("tests.targets.trouble:kills_at_once", "ended without a word"),
    ],
)
def test_a_look_at_unusable_data_is_a_target_error(runner, target, told):
    """One line that says why; the server lives on."""
    task = InspectTask(workload=WorkloadSpec(dataset_target=target), sources=Sources(), batch_size=4)
    with pytest.raises(TargetError) as raised:
        runner.inspect(task)
    assert told in raised.value.what
    assert "\n" not in raised.value.what


IN_A_SMALL_SHM = """
import sys, time
sys.path[:0] = [{root!r}]
from tests.integration.conftest import Launcher, Leg, make_runner, make_spec, quick
import os
with Launcher() as launcher:
    runner = make_runner(launcher)
    spec = make_spec("tests.targets.trouble:large", 2, batch_size=20, measure=quick(silence_s=10.0))
    result = runner.run(spec, Leg(settings=spec.settings, role="grid"), 1, time.monotonic() + 40)
    left = [name for name in os.listdir("/dev/shm") if name.startswith("torch_")]
    good = make_spec("tests.targets.truth:instant", 2)
    after = runner.run(good, Leg(settings=good.settings, role="grid"), 2, time.monotonic() + 40)
    print(result.state, "|", result.failure.cause, "|", left, "|", after.state)
"""


@pytest.mark.root
def test_a_full_shared_memory_is_named(tmp_path):
    """A real /dev/shm of 64 MB, as Docker gives: not even one batch of 80 MB fits, and nothing is left in it."""
    script = tmp_path / "small_shm.py"
    script.write_text(IN_A_SMALL_SHM.format(root=str(Path.cwd())))
    told = subprocess.run(
        [
            "unshare", "-m", "--", "sh", "-c",
            'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$0" "$1"', sys.executable, str(script),
        ],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip().splitlines()[-1] == "out_of_memory | shared memory | [] | complete"


IN_A_SMALL_CGROUP = """
import json, os, sys, time
from pathlib import Path
sys.path[:0] = [{root!r}]
from tests.integration.conftest import Launcher, Leg, make_runner, make_spec, quick
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
with Launcher() as launcher:
    runner = make_runner(launcher)
    runner.memory_end_bytes = 1 << 50
    spec = make_spec("tests.targets.trouble:eats_memory", 2, measure=quick(measure_s=30.0, cap_s=60.0))
    result = runner.run(spec, Leg(settings=spec.settings, role="grid"), 1, time.monotonic() + 60)
    good = make_spec("tests.targets.truth:instant", 2)
    after = runner.run(good, Leg(settings=good.settings, role="grid"), 2, time.monotonic() + 40)
    print(json.dumps([result.state, result.failure.cause, result.failure.message, after.state]))
"""


@pytest.fixture
def memory_group():
    """A control group of 1.5 GiB, version 1 or 2; it is removed again."""
    name = f"loadtune-test-{os.getpid()}"
    old, new = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    folder, limits = (old / name, ["memory.limit_in_bytes"]) if old.is_dir() else (new / name, ["memory.max"])
    try:
        folder.mkdir()
        for limit in limits:
            (folder / limit).write_text(str(3 * 2**29))
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"no memory control group can be made: {error}")
    yield folder
    assert wait_until(lambda: not (folder / "cgroup.procs").read_text().strip())
    folder.rmdir()


@pytest.mark.root
def test_a_kernel_kill_for_memory_is_told_from_another_kill(tmp_path, memory_group):
    """A real OOM kill in a control group: the kernel takes a worker or the trial, never the parent or the server."""
    script = tmp_path / "small_cgroup.py"
    script.write_text(IN_A_SMALL_CGROUP.format(root=str(Path.cwd())))
    told = subprocess.run(
        [sys.executable, str(script), str(memory_group)], check=False, capture_output=True, text=True, timeout=150
    )
    assert told.returncode == 0, told.stderr
    state, cause, message, after = json.loads(told.stdout.strip().splitlines()[-1])
    assert (state, cause, after) == ("out_of_memory", "host memory", "complete"), message
    assert "kernel" in message
