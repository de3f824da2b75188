"""What is a training of `diagnosis` made of? Its samples, its loader, its device and its surroundings."""

from dataclasses import dataclass

BATCH = 16
LENGTH = 8192
"""Samples of an epoch: it does not end within a measurement."""
SLOW_EVERY = 50
LONG_EVERY = 8
"""One batch in so many takes long where batches are uneven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A training: its samples, its loader, its device and its surroundings. Seconds are of one sample where not said.

    Attributes:
        wait_s: Waiting, as for a read.
        burn_s: Computing.
        slow_s: Waiting of one sample in `SLOW_EVERY`.
        uneven: How many times longer one batch in `LONG_EVERY` takes than on average; 1: all alike.
        sample_bytes: Size of a sample.
        boxes: Lists of four numbers beside it, as targets of a detector: the main process unpickles each.
        held_objects: Python objects that every worker goes through, as a list of file names is.
        read_bytes: Bytes read from files.
        is_cold: They are dropped from the page cache before they are read.
        sines: Passes of a vectorised operation, which several threads may share.
        sine_numbers: Numbers that each goes over.
        threads: Intra-op threads that each worker sets; None: torch's own, one.
        is_pinned: worker_init_fn ties every worker to the same core.
        length: Samples in an epoch.
        is_iterable: An IterableDataset.
        repeat_ratio: Share of it that every worker yields; 0: divided among workers.
        is_spawned: Workers are started by spawn.
        pickled_bytes: Size of what travels to each worker then.
        device_s: Seconds a step at `BATCH`, in proportion to the batch.
        host_s: CPU of the host a step, whatever the batch.
        copy_s: Copy of a batch.
        run_ahead: Steps queued; 0: each step waits for the device itself.
        neighbours: Processes that spin beside it.
        quota_cores: cgroup CPU quota.
        shm_bytes: Size of /dev/shm.
    """

    wait_s: float = 0.0
    burn_s: float = 0.0002
    slow_s: float = 0.0
    uneven: float = 1.0
    sample_bytes: int = 4096
    boxes: int = 0
    held_objects: int = 0
    read_bytes: int = 0
    is_cold: bool = False
    sines: int = 0
    sine_numbers: int = 1 << 18
    threads: int | None = None
    is_pinned: bool = False
    length: int = LENGTH
    is_iterable: bool = False
    repeat_ratio: float = 0.0
    is_spawned: bool = False
    pickled_bytes: int = 0
    batch_size: int = BATCH
    num_workers: int = 2
    prefetch_factor: int | None = None
    is_persistent: bool = False
    device_s: float = 0.04
    host_s: float = 0.002
    copy_s: float = 0.0
    run_ahead: int = 2
    neighbours: int = 0
    quota_cores: float | None = None
    shm_bytes: int | None = None

    @property
    def useful_ratio(self) -> float:
        """Share of the samples that are not another worker's again."""
        return 1.0 / (1.0 + self.repeat_ratio * (max(1, self.num_workers) - 1))
