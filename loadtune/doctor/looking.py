"""How are the readings had? Side by side, within a few seconds; what does not answer becomes a reason."""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from loadtune.doctor.patience import Look
from loadtune.doctor.readings import (
    CUDA_SETTINGS,
    THREAD_SETTINGS,
    Cuda,
    Host,
    Readings,
    Requirement,
    Software,
    Storage,
)
from loadtune.engine.launcher import Launcher
from loadtune.errors import EngineError
from loadtune.monitor.cgroup import find_groups, read_throttling
from loadtune.monitor.environment import (
    DISTRIBUTION,
    OTHER_DISTRIBUTION,
    find_version,
    read_machine,
)
from loadtune.monitor.filesample import sample_files
from loadtune.monitor.gpu_inspection import Driver, GpuInspector, Link
from loadtune.monitor.host import SHARED_MEMORY, find_data_mount
from loadtune.monitor.installed import (
    find_package,
    read_build,
    read_image_extension,
    read_pillow,
    read_requirements,
)
from loadtune.monitor.pagecache import read_residency
from loadtune.monitor.storage import find_disks
from loadtune.records.messages import CudaChecked, CudaCheckTask, DeviceInUse, Failed

WALK_LIMIT_S, CACHE_LIMIT_S = 1.0, 0.5
"""Longest listing of the data set, and longest look at the page cache. A million files take 1 to 1.5 s to list; with
more time for them, the whole would no longer take three seconds."""

SAMPLE_FILES = 512
"""Files kept of the walk, at most. A share of 50 % is then known to within 6 % (two standard errors, files of one size;
256 are kept at least); opening each costs 20 us on a local disk, and a round trip on a network file system."""

ANSWER_LIMIT_S = 10.0
"""When a file system or driver that does not answer is given up. NVML takes a second where the driver must first load,
a cold network file system as long; whoever takes ten would make each epoch's start a trial of patience."""

CUDA_LIMIT_S = 60.0
"""Longest try of CUDA, once torch is imported. Each device takes a second; the first context on a busy machine ten."""

LINK_DELAY_S = 0.1
"""From the start of copies to the look at the link: an idle GPU wakes its link within milliseconds."""

POLL_S = 0.05


def look(
    dataset: str | None,
    launcher: Launcher | None,
    *,
    root: Path = Path("/"),
    sleep: Callable[[float], None] = time.sleep,
) -> Readings:
    """Read everything.

    Args:
        dataset: The data set's folder; None: storage is not looked at.
        launcher: Whose process tries CUDA; None: CUDA is not tried.
        root: Where /proc, /sys and /dev hang; another folder in tests.
        sleep: Waits that many seconds.
    """
    storage = None if dataset is None else Look(partial(look_at_storage, dataset, root=root))
    gpus = Look(partial(_open_driver, root))
    host = look_at_host(root=root, sleep=sleep)
    software = look_at_software(host.machine.versions)
    inspector, driver = _wait_for_driver(gpus)
    try:
        return Readings(
            host=host,
            software=software,
            driver=driver,
            storage=None if storage is None or dataset is None else _wait_for_storage(storage, dataset),
            cuda=None if launcher is None else look_at_cuda(launcher, inspector, sleep),
        )
    finally:
        if inspector is not None:
            inspector.close()


def look_at_host(*, root: Path = Path("/"), sleep: Callable[[float], None] = time.sleep) -> Host:
    """Read limits and load. Takes 0.3 s."""
    import resource

    groups = find_groups(root)
    quota = groups.read_quota()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Host(
        machine=read_machine(root=root, sleep=sleep),
        cpu_count=os.cpu_count(),
        throttling=None if quota is None else read_throttling(quota.group),
        has_memory_group=bool(groups.memory),
        has_shm=(root / SHARED_MEMORY).is_dir(),
        open_files_hard_limit=None if hard == resource.RLIM_INFINITY else hard,
        settings={name: os.environ[name] for name in (*THREAD_SETTINGS, *CUDA_SETTINGS) if name in os.environ},
        python=(sys.version_info.major, sys.version_info.minor),
    )


def look_at_software(versions: dict[str, str]) -> Software:
    """Read how things were built and what they need. Imports nothing but Pillow.

    Args:
        versions: As `read_versions` lists them.
    """
    torchvision = find_package("torchvision")
    ours = find_version(DISTRIBUTION)
    return Software(
        versions=versions,
        torch=read_build(find_package("torch")),
        torchvision=read_build(torchvision),
        torchvision_needs=read_requirements("torchvision").get("torch"),
        image_extension=read_image_extension(torchvision),
        pillow=read_pillow(),
        requirements=tuple(
            Requirement(name, bounds, find_version(name)) for name, bounds in read_requirements(DISTRIBUTION).items()
        ),
        other_distribution=None if ours is None else find_version(OTHER_DISTRIBUTION),
    )


def look_at_storage(path: str, *, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> Storage:
    """List a part of the data set, and ask after its file system, disk and page cache. Reads no file."""
    if ":" in path and not os.path.lexists(path):
        return Storage(path=path, is_reference=True)
    try:
        files = sample_files(os.fsencode(path), WALK_LIMIT_S, SAMPLE_FILES, clock=clock)
    except FileNotFoundError:
        return Storage(path=path, problem="does not exist")
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        return Storage(path=path, problem=f"cannot be listed: {getattr(error, 'strerror', None) or error}")
    mount = find_data_mount(path, root=root)
    return Storage(
        path=path,
        mount=mount,
        disks=() if mount is None else find_disks(mount, root=root),
        files=files,
        residency=read_residency(files.paths, CACHE_LIMIT_S, clock=clock),
    )


def look_at_cuda(
    launcher: Launcher, inspector: GpuInspector | None, sleep: Callable[[float], None] = time.sleep
) -> Cuda:
    """Have CUDA tried in a fork of the process that imported torch, and look at the links while it copies."""
    try:
        process = launcher.start(CudaCheckTask())
    except EngineError as error:
        return Cuda(failure=error.what)
    links: dict[str, Link] = {}
    deadline_s = time.monotonic() + CUDA_LIMIT_S
    try:
        while time.monotonic() < deadline_s:
            launcher.poll(POLL_S)
            is_over = process.exit is not None  # before the inbox is emptied: what it said comes first
            while process.inbox:
                event = process.inbox.popleft()
                if isinstance(event, DeviceInUse) and event.uuid is not None and inspector is not None:
                    sleep(LINK_DELAY_S)
                    if (link := inspector.read_link(event.uuid)) is not None:
                        links[event.uuid] = link
                elif isinstance(event, CudaChecked):
                    return Cuda(import_s=launcher.import_s, checked=event, links=links)
                elif isinstance(event, Failed):
                    return Cuda(failure=event.message)
            if is_over:
                last = process.log_tail().splitlines()
                return Cuda(failure=last[-1] if last else "it ended without a word")
        return Cuda(failure=f"no answer in {CUDA_LIMIT_S:g} s")
    except EngineError as error:
        return Cuda(failure=error.what)
    finally:
        launcher.release(process)


def _open_driver(root: Path) -> tuple[GpuInspector, Driver]:
    inspector = GpuInspector.open()
    return inspector, inspector.inspect(root=root)


def _wait_for_driver(gpus: Look[tuple[GpuInspector, Driver]]) -> tuple[GpuInspector | None, Driver]:
    try:
        return gpus.wait(ANSWER_LIMIT_S)
    except TimeoutError as error:
        return None, Driver(reason=f"the driver gives {error}", has_node=True)


def _wait_for_storage(storage: Look[Storage], path: str) -> Storage:
    try:
        return storage.wait(ANSWER_LIMIT_S)
    except TimeoutError as error:
        return Storage(path=path, problem=f"gives {error}: its file system does not answer")
