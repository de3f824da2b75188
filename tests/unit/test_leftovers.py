"""What is swept, and what is left alone? A made-up /proc, and real processes of our own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtune.engine import leftovers
from loadtune.engine.leftovers import (
    PID_MAX,
    _pids_since,
    end_group,
    find_leftovers,
    sweep_shared_memory,
    wait_for_end,
)


@pytest.fixture
def proc(tmp_path):
    """A /proc to be filled."""

    def add(pid, group, state="S", name="python", cmdline=b"python"):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} ({name}) {state} 1 {group} {group} 0 -1 4194560")
        (folder / "cmdline").write_bytes(cmdline)

    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB")
    add.folder = tmp_path
    return add


@pytest.fixture
def killed(monkeypatch, proc):
    """Who was killed, and how: each process vanishes from the made-up /proc, a group all at once."""
    calls = []

    def remove(pid):
        for file in (proc.folder / str(pid)).glob("*"):
            file.unlink()
        (proc.folder / str(pid)).rmdir()

    def kill(pid):
        calls.append(pid)
        if (proc.folder / str(pid)).is_dir():
            remove(pid)

    def killpg(group, number):
        calls.append(-group)
        for pid in leftovers._members(group, proc.folder):
            remove(pid)

    monkeypatch.setattr(leftovers, "_kill", kill)
    monkeypatch.setattr(os, "killpg", killpg)
    monkeypatch.setattr(leftovers, "TRACKER_GRACE_S", 0.05)
    return calls


def test_a_group_is_known_by_its_number_whatever_its_processes_are_called(proc):
    """Parentheses and blanks in a name do not shift the fields; zombies do not count."""
    proc(10, 10)
    proc(11, 10, name="a (strange) S 1 99")
    proc(12, 10, state="Z")
    proc(13, 99)
    assert leftovers._members(10, proc.folder) == {10, 11}
    assert leftovers._members(7, proc.folder) == set()


def test_a_process_that_ends_while_it_is_looked_at_is_no_member(proc):
    """Its folder is there, its file is not."""
    proc(10, 10)
    (proc.folder / "11").mkdir()
    assert leftovers._members(10, proc.folder) == {10}


def test_a_group_is_killed_at_once(proc, killed):
    """No grace where there is no resource tracker."""
    proc(10, 10)
    proc(11, 10)
    end_group(10, proc.folder)
    assert killed == [-10]


def test_a_resource_tracker_may_unlink_before_it_goes(proc, killed):
    """The others are killed first; a tracker that stays is killed after its grace."""
    proc(10, 10)
    proc(11, 10, cmdline=b"python\0-c\0from multiprocessing.resource_tracker import main;main(5)")
    end_group(10, proc.folder)
    assert killed == [10, -10]
    assert leftovers._members(10, proc.folder) == set()


def test_waiting_ends_with_the_group_or_the_limit(proc):
    """True where nothing runs any more."""
    assert wait_for_end(10, 0.05, proc.folder) is True
    proc(10, 10)
    assert wait_for_end(10, 0.05, proc.folder) is False


def end_a_process() -> int:
    """The number of a process that has just ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_only_our_dead_makers_younger_files_are_swept(tmp_path, monkeypatch):
    """Living makers, older files, other users' and other names stay; so does what no process of ours can have made."""
    dead, elsewhere = end_a_process(), 2**22 + 1  # beyond any number that was given here: of another container
    now = time.time()
    for name, size in (
        (f"torch_{dead}_7_0", 100),
        (f"torch_{dead}_8_1", 11),
        (f"torch_{elsewhere}_7_0", 100),
        (f"torch_{dead - 1}_7_0", 100),  # older than the trial
        (f"torch_{os.getpid()}_7_0", 100),
        (f"torch_{dead}", 100),
        ("torch_x_1", 100),
        (f"sem.mp-{dead}", 100),
        (f"psm_{dead}_1", 100),
    ):
        (tmp_path / name).write_bytes(bytes(size))
    old = tmp_path / f"torch_{dead}_9_0"
    old.write_bytes(b"old")
    os.utime(old, (now - 60, now - 60))
    kept = {entry.name for entry in tmp_path.iterdir()} - {f"torch_{dead}_7_0", f"torch_{dead}_8_1"}
    assert sweep_shared_memory(dead, now - 30, tmp_path) == 111
    assert {entry.name for entry in tmp_path.iterdir()} == kept
    (tmp_path / f"torch_{dead}_7_0").write_bytes(b"x")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert sweep_shared_memory(dead, now - 30, tmp_path) == 0


def test_leftovers_are_told_in_words(tmp_path):
    """A living process of a group that should be gone, and shared memory whose maker is dead."""
    (tmp_path / f"torch_{os.getpid()}_7_0").write_bytes(b"x")
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    dead = end_a_process()
    (tmp_path / f"torch_{dead}_7_0").write_bytes(b"x")
    try:
        told = find_leftovers([process.pid, dead], time.time() - 30, tmp_path)
    finally:
        process.communicate(b"\n", timeout=10)
    assert told == [f"process {process.pid}", f"shared memory torch_{dead}_7_0"]
    assert find_leftovers([process.pid], time.time() + 30, tmp_path) == find_leftovers([], 0.0, tmp_path) == []


def test_numbers_that_began_anew_are_all_searched():
    """The newest is below the group's: the kernel has started from the bottom."""
    assert PID_MAX in _pids_since(PID_MAX)
    assert 2 in _pids_since(PID_MAX)
    assert os.getpid() - 1 not in _pids_since(os.getpid())


def test_a_folder_that_is_not_there_is_swept_of_nothing(tmp_path):
    """/dev/shm may be missing."""
    assert sweep_shared_memory(1, 0.0, tmp_path / "none") == 0


def test_a_real_group_is_ended_frozen_members_included():
    """SIGKILL reaches what SIGSTOP holds."""
    script = "import os, time; os.fork(); os.fork(); print('ready', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    for _ in range(4):
        process.stdout.readline()
    assert len(leftovers._members(process.pid, Path("/proc"))) == 4
    os.killpg(process.pid, 19)
    end_group(process.pid)
    assert wait_for_end(process.pid, 10.0)
    process.communicate(timeout=10)
    end_group(process.pid)
