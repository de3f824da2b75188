"""What is wrong with this machine for measuring? Limits and counters in, a hazard or None out: pure.

A report shows each as two lines, `loadtune doctor` as found, why and fix. Limits that make trials impossible are the
engine's.
"""

from typing import NamedTuple

from loadtune.records.resources import HostLimits

GIB = 1 << 30

SHM_MIN_BYTES = GIB
"""Below this /dev/shm is called small. Docker's default is 64 MiB, in which a few batches of float32 crops do not fit;
the kernel's own default is half of the memory. Smaller values would let such containers fail without a word."""

OPEN_FILES_MIN = 256
"""At or below this the limit on open files is called low. Every tensor that a worker hands over is an open file of the
main process until its batch is dropped: 16 workers with two batches of 4 tensors ahead are 128, CUDA's files aside."""

FOREIGN_SHARE_MAX = 0.1
"""Share of the usable cores that others may take before it is said. Below it, a comparison's own noise is larger."""

SWAP_USED_MAX_BYTES = GIB // 4
"""Swap in use below this is what idle programs leave behind; more means that memory was short."""

QUOTA_SLACK_CORES = 0.01
"""A quota within this of the CPU mask binds nobody."""

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fhgfs",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.juicefs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "orangefs",
        "pvfs2",
        "smb3",
        "smbfs",
        "virtiofs",
        "wekafs",
    }
)
"""Types by the kernel's name whose reads leave the machine (or, for virtiofs and 9p, the guest)."""


class Hazard(NamedTuple):
    """Something that is wrong."""

    found: str
    """What, with its number."""
    why: str
    """What it does to a training or to the measuring."""
    fix: str

    def __str__(self) -> str:
        return f"{self.found}: {self.why}\n{self.fix}"


def find_hazards(
    limits: HostLimits, *, foreign_cores: float | None, swap_used_bytes: int | None, file_system: str | None
) -> tuple[str, ...]:
    """Return what is wrong, each as "what: why" and a hint on the next line.

    Args:
        limits: What this process may use.
        foreign_cores: Cores that others keep busy, on the CPUs of our mask; None: not known.
        swap_used_bytes: Swap in use on the machine; None: not known.
        file_system: Type of the data set's file system; None: not known.
    """
    found = (
        judge_shared_memory(limits),
        judge_oom_group(limits),
        judge_swap(swap_used_bytes),
        judge_quota(limits),
        judge_foreign_load(limits, foreign_cores),
        judge_open_files(limits),
        judge_file_system(file_system),
    )
    return tuple(str(hazard) for hazard in found if hazard is not None)


def judge_shared_memory(limits: HostLimits) -> Hazard | None:
    """Say whether /dev/shm is too small for what workers hand over."""
    if limits.shm_total_bytes is None or limits.shm_total_bytes >= SHM_MIN_BYTES:
        return None
    return Hazard(
        f"/dev/shm holds only {_mib(limits.shm_total_bytes)}",
        "batches of several workers may not fit",
        "start the container with --shm-size=8g (Kubernetes: an emptyDir of medium Memory on /dev/shm)",
    )


def judge_oom_group(limits: HostLimits) -> Hazard | None:
    """Say whether a trial that runs out of memory takes everything with it."""
    if not limits.memory_oom_group:
        return None
    return Hazard(
        "memory.oom.group is set",
        "one out-of-memory kill ends the whole container, this program included",
        "trials are ended at 80 % of the memory limit; raise the limit to measure larger settings",
    )


def judge_swap(swap_used_bytes: int | None) -> Hazard | None:
    """Say whether memory was short."""
    if swap_used_bytes is None or swap_used_bytes <= SWAP_USED_MAX_BYTES:
        return None
    return Hazard(
        f"{_mib(swap_used_bytes)} of swap are in use",
        "memory was short, and pages may come back slowly",
        "end what needs the memory; where as much memory is free, sudo swapoff -a brings it back at once",
    )


def judge_quota(limits: HostLimits) -> Hazard | None:
    """Say whether a quota allows less than the CPUs that can be seen."""
    if limits.quota_cores is None or limits.quota_cores >= limits.affinity_cores - QUOTA_SLACK_CORES:
        return None
    return Hazard(
        f"a CPU quota of {limits.quota_cores:.3g} cores is set, though {limits.affinity_cores} CPUs can be seen",
        "more workers than the quota are held back in turns",
        "start the training under the same quota",
    )


def judge_foreign_load(limits: HostLimits, foreign_cores: float | None) -> Hazard | None:
    """Say whether others leave less than may be used: under a quota, the rest of the CPUs is theirs to take."""
    ours = limits.usable_cores * limits.ranks_per_node
    if foreign_cores is None or limits.affinity_cores - foreign_cores >= (1 - FOREIGN_SHARE_MAX) * ours:
        return None
    return Hazard(
        f"other programs keep {foreign_cores:.1f} of {limits.affinity_cores} cores busy",
        "what is measured is what they leave",
        "end them, or take the answer for a machine that is as busy as now",
    )


def judge_open_files(limits: HostLimits) -> Hazard | None:
    """Say whether the limit on open files is one that batches in flight may reach."""
    if limits.open_files_limit is None or limits.open_files_limit > OPEN_FILES_MIN:
        return None
    return Hazard(
        f"only {limits.open_files_limit} open files are allowed",
        "each tensor that a worker hands over is one",
        "raise it in the shell with `ulimit -n 4096`",
    )


def judge_file_system(file_system: str | None) -> Hazard | None:
    """Say whether the data come over a network."""
    if file_system not in NETWORK_FILE_SYSTEMS:
        return None
    return Hazard(
        f"the data set is on a network file system ({file_system})",
        "its speed varies with what others do",
        "copy the data to a local disk, or probe again at another time before relying on the answer",
    )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
