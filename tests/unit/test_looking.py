"""How readings are had: on fake roots, from a played trial server, and where nothing answers."""

import os
import threading
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtune.doctor import looking
from loadtune.doctor.examine import examine, judge
from loadtune.doctor.looking import look, look_at_cuda, look_at_host, look_at_software, look_at_storage
from loadtune.errors import EngineError
from loadtune.monitor.cgroup import Throttling
from loadtune.monitor.gpu_inspection import Link
from loadtune.records.diagnosis import Severity
from loadtune.records.measurement import Cause, TrialState
from loadtune.records.messages import CudaChecked, DeviceInUse, Exited, Failed, Phase
from tests.machines import CUDA_DEVICE, NO_DRIVER, UUID

GIB = 1 << 30


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for name in (*looking.THREAD_SETTINGS, *looking.CUDA_SETTINGS):
        monkeypatch.delenv(name, raising=False)


def read_host(root: Path):
    return look_at_host(root=root, sleep=lambda seconds: None)


def lines_of(root: Path, **parts: Any) -> dict[str, Any]:
    """Judge the host of a fake root, on a machine without a GPU."""
    from tests.machines import healthy

    found = judge(healthy(host=read_host(root), driver=NO_DRIVER, cuda=None, storage=None, **parts))
    return {line.check: line for line in found}


def test_a_v2_container_is_read_to_its_lines(tmp_path: Path) -> None:
    """Quota, throttling, memory limit and oom.group of the group and those above; swap and memory of the machine."""
    write(
        tmp_path, "proc/meminfo", "MemTotal: 67108864 kB\nMemAvailable: 60000000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
    )
    write(tmp_path, "proc/self/cgroup", "0::/kubepods/pod\n")
    write(tmp_path, "proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    group = "sys/fs/cgroup/kubepods/pod"
    write(tmp_path, f"{group}/cpu.max", "350000 100000\n")
    write(tmp_path, f"{group}/cpu.stat", "nr_periods 1000\nnr_throttled 950\n")
    write(tmp_path, f"{group}/memory.max", f"{8 * GIB}\n")
    write(tmp_path, f"{group}/memory.current", f"{GIB}\n")
    write(tmp_path, f"{group}/memory.oom.group", "1\n")
    host = read_host(tmp_path)
    assert host.throttling == Throttling(1000, 950)
    found = lines_of(tmp_path)
    assert found["cores"].found == "3 usable: 8 in the affinity mask, a quota of 3.5; os.cpu_count() says 8"
    assert "95 %" in found["throttling"].found
    assert "the machine has 64.0 GiB" in found["memory"].found
    assert found["oom-group"].severity is Severity.WARNING
    assert found["swap"].found == "none"
    assert found["shared-memory"].severity is Severity.ERROR
    assert found["threads"].severity is Severity.WARNING


def test_a_v1_container_is_read_to_its_lines(tmp_path: Path) -> None:
    """Controller by controller."""
    write(tmp_path, "proc/meminfo", "MemTotal: 67108864 kB\nMemAvailable: 60000000 kB\n")
    write(tmp_path, "proc/self/cgroup", "5:memory:/job\n3:cpu,cpuacct:/job\n")
    mounts = (
        "1 1 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "2 1 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    )
    write(tmp_path, "proc/self/mountinfo", mounts)
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "200000\n")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n")
    write(tmp_path, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", f"{GIB}\n")
    found = lines_of(tmp_path)
    assert found["cores"].found == "2 usable: 8 in the affinity mask, a quota of 2; os.cpu_count() says 8"
    assert found["throttling"].severity is Severity.UNKNOWN
    assert found["memory"].severity is Severity.WARNING
    assert found["oom-group"].severity is Severity.OK
    assert found["swap"].severity is Severity.UNKNOWN


def test_without_proc_and_sys_every_line_is_there_and_nothing_is_wrong_of_it(tmp_path: Path) -> None:
    """What cannot be read is unknown; only the missing /dev/shm is a fact."""
    found = lines_of(tmp_path)
    assert found["foreign-load"].severity is Severity.UNKNOWN
    assert found["swap"].severity is Severity.UNKNOWN
    assert found["oom-group"].severity is Severity.UNKNOWN
    assert [name for name, line in found.items() if line.severity is Severity.ERROR] == ["shared-memory"]


def test_environment_variables_that_matter_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those only."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("SECRET", "x")
    assert read_host(tmp_path).settings == {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": ""}


def test_this_installation_fits_together() -> None:
    """Builds, needs and Pillow of the environment that runs the tests."""
    found = look_at_software({"torch": "1"})
    assert found.torch is not None
    assert found.torchvision is not None
    assert found.pillow is not None
    assert found.versions == {"torch": "1"}


def test_storage_is_read_without_opening_a_sample(tmp_path: Path) -> None:
    """Files, mount and page cache of a real folder."""
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"x" * 1000)
    found = look_at_storage(str(tmp_path))
    assert found.problem is None
    assert found.files is not None
    assert (found.files.seen, found.total_bytes) == (3, 3000)
    assert found.mount is not None


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/nowhere/at/all", "does not exist"),
        ("", "does not exist"),
        ("a\0b", "cannot be listed: "),
        ("\ud800", "cannot be listed: "),
        ("/etc/passwd/x", "cannot be listed: Not a directory"),
    ],
)
def test_paths_that_are_none_are_problems_and_no_errors(path: str, problem: str) -> None:
    """Missing, empty, impossible."""
    assert (look_at_storage(path).problem or "").startswith(problem)


def test_a_reference_to_code_is_known(tmp_path: Path) -> None:
    """Unless a file of that name is there."""
    assert look_at_storage("train.py:make").is_reference
    odd = tmp_path / "a:b"
    odd.mkdir()
    assert not look_at_storage(str(odd)).is_reference


def test_a_folder_that_is_closed_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may enter all, so the refusal is played."""

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(looking, "sample_files", lambda *arguments, **options: refuse(arguments))
    assert look_at_storage(str(tmp_path)).problem == "cannot be listed: Permission denied"


def test_what_does_not_answer_becomes_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A dead file server and a driver that hangs; the rest is told all the same."""
    never = threading.Event()
    monkeypatch.setattr(looking, "ANSWER_LIMIT_S", 0.05)
    monkeypatch.setattr(looking, "look_at_storage", lambda path, root: never.wait())
    monkeypatch.setattr(looking, "_open_driver", lambda root: never.wait())
    found = look("/data", None, root=tmp_path, sleep=lambda seconds: None)
    never.set()
    assert found.storage is not None
    assert found.storage.problem == "gives no answer in 0.05 s: its file system does not answer"
    assert found.driver.reason == "the driver gives no answer in 0.05 s"
    lines = {line.check: line for line in judge(found)}
    assert lines["data"].severity is Severity.ERROR
    assert lines["driver"].severity is Severity.ERROR
    assert lines["cores"].severity is Severity.OK


class PlayedLauncher:
    """A trial server that says what it was told to say, one entry a poll."""

    import_s = 3.4

    def __init__(self, *said: Any, refusal: EngineError | None = None) -> None:
        self.process = SimpleNamespace(inbox=deque(), exit=None, log_tail=lambda: "Traceback\nValueError: no")
        self._said, self._refusal = deque(said), refusal
        self.released = 0

    def start(self, task: Any) -> Any:
        if self._refusal is not None:
            raise self._refusal
        return self.process

    def poll(self, timeout_s: float) -> None:
        said = self._said.popleft() if self._said else None
        if isinstance(said, Exited):
            self.process.exit = said
        elif isinstance(said, EngineError):
            raise said
        elif said is not None:
            self.process.inbox.append(said)

    def release(self, process: Any) -> None:
        self.released += 1


class PlayedInspector:
    def __init__(self, *links: Link | None) -> None:
        self._links = deque(links)

    def read_link(self, uuid: str) -> Link | None:
        return self._links.popleft()


ENDED = Exited(pid=1, exit_code=1, signal=None, cpu_s=0.0, peak_rss_bytes=0)
CHECKED = CudaChecked(devices=(CUDA_DEVICE,))
FAILED = Failed(state=TrialState.FAILED, cause=Cause.USER_CODE, message="ImportError: libcudart")


def ask(*said: Any, inspector: Any = None, **options: Any):
    launcher = PlayedLauncher(*said, **options)
    found = look_at_cuda(launcher, inspector, sleep=lambda seconds: None)  # type: ignore[arg-type]
    return found, launcher.released


def test_links_are_read_while_copies_run() -> None:
    """When the process says which device it is about to copy to; one that is not told is left out."""
    found, released = ask(
        Phase(name="built", at_s=0.0),
        DeviceInUse(uuid=UUID),
        DeviceInUse(uuid="GPU-2"),
        CHECKED,
        inspector=PlayedInspector(Link(5, 16), None),
    )
    assert (found.checked, found.links, found.import_s, found.failure) == (CHECKED, {UUID: Link(5, 16)}, 3.4, None)
    assert released == 1


def test_without_a_driver_there_is_no_link() -> None:
    """CUDA may work where NVML does not."""
    found, _ = ask(DeviceInUse(uuid=UUID), CHECKED)
    assert (found.checked, found.links) == (CHECKED, {})


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ((FAILED,), "ImportError: libcudart"),
        ((ENDED,), "ValueError: no"),
        ((EngineError("the trial server failed: it ended", "x"),), "the trial server failed: it ended"),
    ],
)
def test_a_process_that_fails_says_why(said: tuple[Any, ...], failure: str) -> None:
    """In its last line; and is released."""
    found, released = ask(*said)
    assert (found.failure, released) == (failure, 1)


def test_a_server_that_does_not_start_says_why() -> None:
    """torch that cannot be imported ends it."""
    refusal = EngineError("the trial server failed: OSError: libtorch_cuda.so", "x")
    found, released = ask(refusal=refusal)
    assert (found.failure, released) == ("the trial server failed: OSError: libtorch_cuda.so", 0)


def test_silence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context that never comes up."""
    monkeypatch.setattr(looking, "CUDA_LIMIT_S", 0.01)
    found, released = ask()
    assert (found.failure, released) == ("no answer in 0.01 s", 1)


def test_the_whole_is_a_diagnosis(tmp_path: Path) -> None:
    """On a root where nothing is: every topic but CUDA has its lines, and the environment says what is missing."""
    found = examine(str(tmp_path), root=tmp_path)
    assert {line.topic for line in found.lines} == {"processor", "memory", "processes", "data", "software", "gpu"}
    assert found.severity is Severity.ERROR
    assert not found.has_cuda_checks
    assert "file_system" in {item.reading for item in found.environment.unavailable}
