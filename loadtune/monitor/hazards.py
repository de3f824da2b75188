"""What is wrong with this machine for measuring? Limits and counters in, two-line warnings out: pure.

Each warning is "what, with its number" and below it the hint. Limits that make trials impossible are the engine's.
"""

from collections.abc import Iterator

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


def find_hazards(
    limits: HostLimits, *, foreign_cores: float | None, swap_used_bytes: int | None, file_system: str | None
) -> tuple[str, ...]:
    """Return what is wrong, each as "what" and a hint on the next line.

    Args:
        limits: What this process may use.
        foreign_cores: Cores that others keep busy, on the CPUs of our mask; None: not known.
        swap_used_bytes: Swap in use on the machine; None: not known.
        file_system: Type of the data set's file system; None: not known.
    """
    return (
        *_memory_hazards(limits, swap_used_bytes),
        *_cpu_hazards(limits, foreign_cores),
        *_file_hazards(limits, file_system),
    )


def _memory_hazards(limits: HostLimits, swap_used_bytes: int | None) -> Iterator[str]:
    if limits.shm_total_bytes is not None and limits.shm_total_bytes < SHM_MIN_BYTES:
        yield (
            f"/dev/shm holds only {_mib(limits.shm_total_bytes)}: batches of several workers may not fit\n"
            "start the container with --shm-size=8g (Kubernetes: an emptyDir of medium Memory on /dev/shm)"
        )
    if limits.memory_oom_group:
        yield (
            "memory.oom.group is set: one out-of-memory kill ends the whole container, this program included\n"
            "trials are ended at 80 % of the memory limit; raise the limit to measure larger settings"
        )
    if swap_used_bytes is not None and swap_used_bytes > SWAP_USED_MAX_BYTES:
        yield (
            f"{_mib(swap_used_bytes)} of swap are in use: memory was short, and pages may come back slowly\n"
            "end what needs the memory, or switch swap off while measuring (sudo swapoff -a)"
        )


def _cpu_hazards(limits: HostLimits, foreign_cores: float | None) -> Iterator[str]:
    ours = limits.usable_cores * limits.ranks_per_node
    if limits.quota_cores is not None and limits.quota_cores < limits.affinity_cores - QUOTA_SLACK_CORES:
        yield (
            f"a CPU quota of {limits.quota_cores:.3g} cores is set, though {limits.affinity_cores} CPUs can be seen\n"
            "more workers than the quota are held back in turns; start the training under the same quota"
        )
    # Under a quota, others harm only where they leave less than the quota of the CPUs that we may run on.
    left_over = None if foreign_cores is None else limits.affinity_cores - foreign_cores
    if left_over is not None and left_over < (1 - FOREIGN_SHARE_MAX) * ours:
        yield (
            f"other programs keep {foreign_cores:.1f} of {limits.affinity_cores} cores busy\n"
            "end them, or take the answer for a machine that is as busy as now"
        )


def _file_hazards(limits: HostLimits, file_system: str | None) -> Iterator[str]:
    if limits.open_files_limit is not None and limits.open_files_limit <= OPEN_FILES_MIN:
        yield (
            f"only {limits.open_files_limit} open files are allowed: each tensor that a worker hands over is one\n"
            "raise it in the shell with `ulimit -n 4096`"
        )
    if file_system in NETWORK_FILE_SYSTEMS:
        yield (
            f"the data set is on a network file system ({file_system}): its speed varies with what others do\n"
            "copy the data to a local disk, or probe again at another time before relying on the answer"
        )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
