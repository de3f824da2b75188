"""What is left when the parent, or the trial server, is killed? Nothing, whatever state the trials are in."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtune.engine.launcher import Launcher
from loadtune.errors import EngineError
from loadtune.records.messages import SideTask, Sources, TrialTask
from tests.integration.conftest import descendants, is_alive, make_spec, quick, shared_files, wait_until

ROOT = Path(__file__).parents[2]
PARENT = """
import json, signal, sys, time
sys.path.insert(0, sys.argv[1])
from tests.integration.conftest import Launcher, Sources, descendants, make_spec, quick
from loadtune.records.messages import SideTask, TrialTask
launcher = Launcher()
hung = launcher.start(TrialTask(
    spec=make_spec("tests.targets.trouble:hangs_deaf", 2), sources=Sources(), requested_s=time.monotonic()))
long = launcher.start(TrialTask(
    spec=make_spec("tests.targets.trouble:slow", 2, measure=quick(measure_s=600.0, cap_s=600.0)),
    sources=Sources(), requested_s=time.monotonic()))
side = launcher.start(SideTask(spec=make_spec("tests.targets.truth:waiting", 2), sources=Sources()))
while not any(getattr(event, "name", None) == "running" for event in side.inbox):
    launcher.poll(0.1)
while not all(len(descendants(each.pid)) >= 2 for each in (hung, long, side)):
    launcher.poll(0.1)
side.signal_group(signal.SIGSTOP)
pids = {each.pid: sorted(descendants(each.pid)) for each in (hung, long, side)}
print(json.dumps([launcher._zygote.pid, pids, launcher._folder.name]), flush=True)
while True:
    launcher.poll(1.0)
"""


@pytest.fixture
def parent():
    """A parent with a hung trial, a running one and a frozen side of a duel, and all their process ids."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(ROOT)], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    line = process.stdout.readline()
    zygote, groups, folder = json.loads(line)
    pids = {zygote, *(int(pid) for pid in groups), *(pid for members in groups.values() for pid in members)}
    yield process, zygote, pids
    process.kill()
    process.communicate(timeout=30)
    for pid in pids:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    for log in Path(folder).glob("*") if Path(folder).is_dir() else ():
        log.unlink()
    if Path(folder).is_dir():
        Path(folder).rmdir()


def test_a_killed_parent_takes_every_trial_and_worker_with_it(parent):
    """SIGKILL of the parent: hung, running and frozen trials, their workers and the server end; no shared memory."""
    process, _, pids = parent
    assert len(pids) >= 10  # and a fork server for each where that is the default
    assert all(is_alive(pid) for pid in pids)
    process.kill()
    process.wait(30)
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids), 10.0), {p for p in pids if is_alive(p)}
    assert shared_files(pids) == []


def test_a_killed_server_takes_every_trial_and_worker_with_it(parent):
    """SIGKILL of the zygote alone: the same, and the parent hears of it."""
    process, zygote, pids = parent
    os.kill(zygote, signal.SIGKILL)
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids), 10.0), {p for p in pids if is_alive(p)}
    assert shared_files(pids) == []
    assert process.wait(30) == 1  # EngineError, which the script does not catch


def test_a_terminated_parent_takes_everything_with_it(parent):
    """SIGTERM, which Python does not clean up after either."""
    process, _, pids = parent
    process.terminate()
    process.wait(30)
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids), 10.0), {p for p in pids if is_alive(p)}


def start_slow(launcher):
    spec = make_spec("tests.targets.trouble:slow", 2, measure=quick(measure_s=600.0, cap_s=600.0))
    return launcher.start(TrialTask(spec=spec, sources=Sources(), requested_s=time.monotonic()))


def test_the_launcher_says_in_one_line_that_its_server_died():
    """From poll, from start, and again from release: an EngineError with one line and one hint."""
    with Launcher() as launcher:
        process = start_slow(launcher)
        os.kill(launcher._zygote.pid, signal.SIGKILL)
        errors = []
        for act in (lambda: poll_for_ever(launcher), lambda: start_slow(launcher), lambda: launcher.release(process)):
            with pytest.raises(EngineError) as raised:
                act()
            errors.append(raised.value)
        for error in errors:
            assert error.what.startswith("the trial server failed: ")
            assert error.what.count("the trial server failed") == 1
            assert "\n" not in error.what + error.hint
        assert not is_alive(process.pid)


def poll_for_ever(launcher):
    while True:
        launcher.poll(1.0)


def test_a_stopped_server_is_not_waited_for_for_ever(monkeypatch):
    """A server that does not answer is an EngineError, and closing does not hang on it."""
    monkeypatch.setattr("loadtune.engine.launcher.START_LIMIT_S", 0.5)
    with Launcher() as launcher:
        launcher.wait_until_ready()
        os.kill(launcher._zygote.pid, signal.SIGSTOP)
        with pytest.raises(EngineError, match=r"no answer in 0\.5 s"):
            start_slow(launcher)
        zygote = launcher._zygote.pid
    assert not is_alive(zygote)


def test_a_server_that_cannot_import_says_why(monkeypatch):
    """The last line of its log is the reason."""
    monkeypatch.setattr(
        sys, "path", ["/nowhere", *(p for p in sys.path if p.endswith(("python311.zip", "lib-dynload")))]
    )
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    with Launcher() as launcher, pytest.raises(EngineError) as raised:
        launcher.wait_until_ready()
    assert "rror" in raised.value.what
    assert "\n" not in raised.value.what


def test_a_request_longer_than_a_message_is_refused_in_one_line(launcher):
    """The kernel's limit of a datagram is an error of the parent's; the server lives on."""
    spec = make_spec("tests.targets.truth:" + "x" * (1 << 20))
    with pytest.raises(EngineError, match="Message too long"):
        launcher.start(SideTask(spec=spec, sources=Sources()))
    process = start_slow(launcher)
    launcher.release(process)


def test_closing_ends_what_runs_and_may_be_repeated():
    """A context manager that leaves nothing behind; release and close of something gone are harmless."""
    with Launcher() as launcher:
        process = start_slow(launcher)
        assert wait_until(lambda: len(descendants(process.pid)) >= 2)
        pids = {process.pid, *descendants(process.pid), launcher._zygote.pid}
        folder = Path(launcher._folder.name)
        process.signal_group(signal.SIGSTOP)
    assert not any(is_alive(pid) for pid in pids)
    assert not folder.exists()
    process.close()
    process.signal_group(signal.SIGCONT)
    process.go_on()


def test_a_trial_ended_in_the_moment_it_starts_is_gone(launcher):
    """The group exists as soon as the parent knows its number, or killing it would miss."""
    for _ in range(20):
        spec = make_spec("tests.targets.trouble:hangs_at_once", 1)
        process = launcher.start(TrialTask(spec=spec, sources=Sources(), requested_s=time.monotonic()))
        began_s = time.monotonic()
        launcher.release(process)
        assert time.monotonic() - began_s < 3
        assert process.exit.signal == signal.SIGKILL
        assert not is_alive(process.pid)


def test_an_interrupted_start_is_not_taken_for_the_next(launcher, monkeypatch):
    """Ctrl-C while the server forks: its answer comes late, to a start that must not take it for its own."""

    def interrupted(timeout_s):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(launcher, "poll", interrupted)
        with pytest.raises(KeyboardInterrupt):
            start_slow(launcher)
    process = start_slow(launcher)
    assert wait_until(lambda: launcher.poll(0.1) or len(process.inbox) > 1)
    assert not launcher._replies
    launcher.release(process)
    zygote = launcher._zygote.pid
    assert wait_until(lambda: descendants(zygote) == set())


def test_a_trial_keeps_the_platform_s_own_start_method_and_leaves_no_semaphores(launcher):
    """The user's loader starts its workers as it would at home."""
    before = {entry.name for entry in Path("/dev/shm").glob("sem.mp-*")}
    process = start_slow(launcher)
    assert wait_until(lambda: len(descendants(process.pid)) >= 2)
    launcher.release(process)
    assert {entry.name for entry in Path("/dev/shm").glob("sem.mp-*")} - before == set()


def test_the_exit_of_a_trial_carries_its_usage(launcher):
    """wait4 gives CPU time and peak memory for nothing."""
    process = launcher.start(SideTask(spec=make_spec("tests.targets.trouble:exits_7"), sources=Sources()))
    assert wait_until(lambda: launcher.poll(0.1) or process.exit is not None)
    assert process.exit.exit_code == 7
    assert process.exit.cpu_s > 0
    assert process.exit.peak_rss_bytes > 20 * 2**20
    launcher.release(process)
    launcher.release(process)


def test_a_line_on_the_pipe_that_is_no_event_is_dropped(launcher):
    """User code that finds the descriptor cannot end the probe."""
    process = launcher.start(SideTask(spec=make_spec("tests.targets.trouble:writes_everywhere"), sources=Sources()))
    assert wait_until(lambda: launcher.poll(0.1) or process.exit is not None or len(process.inbox) > 3)
    assert process.exit is None
    launcher.release(process)
