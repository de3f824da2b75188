"""How does a training get a busy neighbour, a CPU quota or a small /dev/shm? For real, or not at all with a reason.

Nothing here changes the machine for others: spinning processes end with this one, a quota holds one control group made
for it, and a /dev/shm is mounted in a name space of the probe's own.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks.diagnosis_recipe import Recipe

GROUPS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))
"""Where the cpu controller of cgroup v1, and everything of v2, is mounted as a rule."""
PERIOD_US = 100_000
"""The kernel's own default period of a quota."""
SPIN = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100_000))"
"""Ends with its parent, however that ends."""
ENTER = 'echo $$ > "$0" && exec "$@"'
MOUNT = 'mount -t tmpfs -o size="$0" tmpfs /dev/shm && exec "$@"'


def find_obstacle(recipe: Recipe) -> str | None:
    """Return why this machine cannot give a training its surroundings; None: it can."""
    if recipe.quota_cores is not None:
        try:
            with _group(1.0):
                pass
        except OSError as error:
            return f"no control group with a CPU quota can be made here: {error.strerror}"
    if recipe.shm_bytes is not None:
        command = ["unshare", "-m", "sh", "-c", MOUNT, str(recipe.shm_bytes), "true"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"no tmpfs can be mounted in a name space here: {done.stderr.strip()[-100:]}"
    if recipe.is_cold:
        from benchmarks.diagnosis_worlds import FILE

        kind = subprocess.run(["stat", "-f", "-c", "%T", str(FILE.parent)], capture_output=True, text=True, check=False)
        if kind.stdout.strip() in {"tmpfs", "ramfs"}:
            return f"{FILE.parent} lies in memory, so no read is cold: set TMPDIR"
    return None


@contextmanager
def surrounded(recipe: Recipe, server: int) -> Iterator[list[str]]:
    """Give trainings their surroundings within the block; yield what a command must begin with to have them too.

    Args:
        recipe: Says which.
        server: Process whose children are to have them.

    Raises:
        OSError: The control group cannot be made.
    """
    with ExitStack() as stack:
        prefix: list[str] = []
        for _ in range(recipe.neighbours):
            stack.enter_context(_spinning())
        if recipe.quota_cores is not None:
            processes = stack.enter_context(_group(recipe.quota_cores))
            processes.write_text(str(server))
            prefix += ["sh", "-c", ENTER, str(processes)]
        if recipe.shm_bytes is not None:
            prefix += ["unshare", "-m", "sh", "-c", MOUNT, str(recipe.shm_bytes)]
        yield prefix


@contextmanager
def _spinning() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", SPIN, str(os.getpid())])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _group(cores: float) -> Iterator[Path]:
    """Make a control group with a quota and yield its list of processes; they go back to the root at its end."""
    root = next((each for each in GROUPS if (each / "cgroup.procs").exists()), GROUPS[-1])
    group = root / f"loadtune-diagnosis-{os.getpid()}"
    group.mkdir()
    try:
        quota_us = round(cores * PERIOD_US)
        if (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        yield group / "cgroup.procs"
    finally:
        _remove(group, root)


def _remove(group: Path, root: Path) -> None:
    """Move what is left of a group to the root, and remove it: when its last process has left, it is still busy."""
    for _ in range(20):
        for process in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):  # it ended meanwhile
                (root / "cgroup.procs").write_text(process)
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise OSError(f"{group} cannot be removed")
