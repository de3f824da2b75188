"""What does a trial process do with its task? It builds, measures and tells; it decides nothing about the probe.

Imported once by the zygote; `run` is called in each fork. Events go out on a pipe of their own, so that whatever the
user's code prints harms nothing.
"""

import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

# Imported here so that the zygote has them before it forks: they are what takes seconds.
import torch
from torch.utils.data import DataLoader

from loadtune.dataset.index import PairIndex
from loadtune.engine.failures import classify_exception
from loadtune.measure.accelerator import Accelerator, count_bytes, count_samples, count_tensors
from loadtune.measure.cuda_check import check_cuda
from loadtune.measure.leg import (
    Payload,
    build_leg,
    describe_settings,
    has_data,
    open_source,
    read_payload,
    take_one_batch,
)
from loadtune.measure.loader import shuffled
from loadtune.measure.loop import measure, run_side
from loadtune.measure.plain import run_plain
from loadtune.records.measurement import BadSample
from loadtune.records.messages import (
    CacheRead,
    CacheTask,
    CudaCheckTask,
    CudaInfo,
    DeviceInUse,
    Event,
    Inspected,
    InspectTask,
    Measured,
    Phase,
    SideTask,
    Task,
    TrialTask,
)
from loadtune.records.settings import Settings
from loadtune.workload.segmentation import SegmentationDataset, ShardDataset
from loadtune.workload.surveying import survey
from loadtune.workload.target import DataSource

PARENT_LIMIT_S = 5.0
"""Longest wait for the parent to read the workers' memory; past it the trial goes on without that reading."""
FAILED_EXIT_CODE = 3
"""The trial said what went wrong before it ended."""
READ_CHUNK_BYTES = 1 << 20
STORAGE_LOOK_S, STORAGE_LOOK_BYTES = 1.0, 1 << 20
"""A data set of the user's that fetches less than this from storage in its first second needs no reading beforehand."""
COLD_SAMPLES_MAX = 20_000
"""Samples whose files are dropped before a cold trial: more than one reads. A million would take minutes."""

CudaLook = tuple[CudaInfo | None, str | None]


def run(task: Task, events_fd: int, control_fd: int) -> int:
    """Do the task and return the exit code; every exception becomes an event."""
    started_s = time.monotonic()
    accelerators: list[Accelerator] = []

    def tell(event: Event) -> None:
        content = msgspec.json.encode(event) + b"\n"
        try:
            while content:
                content = content[os.write(events_fd, content) :]
        except BrokenPipeError:  # the parent has gone; told apart from one that the user's code raises
            os._exit(FAILED_EXIT_CODE)

    def note_accelerator(accelerator: Accelerator) -> None:
        accelerators.append(accelerator)
        tell(DeviceInUse(uuid=accelerator.uuid))

    try:
        try:
            payload = Payload() if isinstance(task, CudaCheckTask) else read_payload(task.sources)
            do(task, payload, tell, note_accelerator, lambda: _wait_for_parent(control_fd), started_s)
        finally:
            # DataLoader's handler raises wherever the main thread is when a worker dies: not in what follows.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except BaseException as error:  # noqa: BLE001 - whatever the user's code raises is data, never our traceback
        traceback.print_exc()
        is_device_memory = any(accelerator.is_out_of_memory(error) for accelerator in accelerators)
        tell(classify_exception(error, is_device_memory=is_device_memory))
        return FAILED_EXIT_CODE
    return 0


def do(
    task: Task,
    payload: Payload,
    tell: Callable[[Event], None],
    note_accelerator: Callable[[Accelerator], None],
    wait_for_parent: Callable[[], None],
    started_s: float,
) -> None:
    """Do a task, in whatever process this is.

    Args:
        task: What to do.
        payload: The caller's objects.
        tell: Takes the events; what it raises ends the task.
        note_accelerator: Told of the device as soon as it is open.
        wait_for_parent: Returns when the parent has read what it must read while the workers still live.
        started_s: time.monotonic() when this process, or thread, began.
    """
    if isinstance(task, InspectTask):
        tell(_inspect(task, payload))
        return
    if isinstance(task, CacheTask):
        tell(_read_files(task, payload))
        return
    if isinstance(task, CudaCheckTask):
        tell(check_cuda(lambda uuid: tell(DeviceInUse(uuid=uuid))))
        return
    if task.spec.cache == "cold" and task.sources.index_path is not None:
        forget_files(task.sources.index_path, task.spec.order_seed, task.spec.first_sample)
    is_plain = isinstance(task, SideTask) and task.is_plain
    leg = build_leg(task.spec, task.sources, payload, note_accelerator, is_plain=is_plain)
    tell(Phase(name="built", at_s=time.monotonic()))
    if isinstance(task, SideTask):
        (run_plain if is_plain else run_side)(leg, tell)
    elif isinstance(task, TrialTask):
        process_s = max(0.0, started_s - task.requested_s)
        tell(Measured(measurement=measure(leg, tell, process_s, wait_for_parent)))


def _wait_for_parent(control_fd: int) -> None:
    readable, _, _ = select.select([control_fd], [], [], PARENT_LIMIT_S)
    if readable:
        os.read(control_fd, 1)


def _inspect(task: InspectTask, payload: Payload) -> Inspected:
    """Survey what we prepare ourselves, or describe what the user handed over; and look at CUDA if asked to."""
    cuda, cuda_reason = _look_at_cuda(task.cuda_index)
    if not has_data(task.workload, task.sources, payload):
        return Inspected(sample_count=None, cuda=cuda, cuda_reason=cuda_reason)
    source = open_source(task.workload, task.sources, payload)
    if isinstance(source.dataset, SegmentationDataset | ShardDataset):
        found = survey(source.dataset)
        return Inspected(
            sample_count=source.sample_count,
            class_count=found.class_count,
            is_binary_mask=found.is_binary_mask,
            masks=found.masks,
            is_prepared=True,
            is_iterable=source.is_iterable,
            mean_pair_bytes=found.mean_pair_bytes,
            unreadable=tuple(BadSample(name=name, reason=reason) for name, reason in found.unreadable),
            cuda=cuda,
            cuda_reason=cuda_reason,
        )
    return _describe(source, task.batch_size, cuda, cuda_reason)


def _describe(source: DataSource, batch_size: int, cuda: CudaInfo | None, cuda_reason: str | None) -> Inspected:
    """Say what the user's own data are, from one batch of them."""
    loader: DataLoader[object] | None = source.loader
    asked_for = (loader.batch_size if loader is not None else None) or batch_size
    stamped = take_one_batch(source, Settings(num_workers=0, batch_size=asked_for), 0)
    batch = stamped.batch
    samples = stamped.stamp.samples or count_samples(batch, asked_for)
    is_fixed = any(axis.startswith("batch_size") for axis in source.fixed_axes)
    is_prebatched = loader is not None and loader.batch_size is None and loader.batch_sampler is None
    count = source.sample_count
    return Inspected(
        sample_count=count * samples if count is not None and is_prebatched else count,
        is_rank_share=source.is_rank_share,
        drop_last=source.drop_last,
        sample_bytes=count_bytes(batch) // max(1, samples),
        tensors_per_batch=max(1, count_tensors(batch)),
        fixed_axes=source.fixed_axes,
        fixed_batch_size=samples if is_fixed else None,
        loader_settings=None if loader is None else describe_settings(loader, samples),
        is_iterable=source.is_iterable,
        cuda=cuda,
        cuda_reason=cuda_reason,
    )


def _look_at_cuda(index: int | None) -> CudaLook:
    """Return what torch says of a CUDA device, or why there is none. It opens a context, so it is done in a fork."""
    if index is None:
        return None, "not asked for"
    if not torch.cuda.is_available():
        return None, "torch finds no CUDA device"
    if index >= torch.cuda.device_count():
        return None, f"torch finds {torch.cuda.device_count()} CUDA devices"
    properties = torch.cuda.get_device_properties(index)
    info = CudaInfo(
        index=index,
        name=properties.name,
        uuid=f"GPU-{properties.uuid}",
        memory_bytes=int(properties.total_memory),
        has_bf16=bool(torch.cuda.is_bf16_supported(including_emulation=False)),
    )
    return info, None


def _read_files(task: CacheTask, payload: Payload) -> CacheRead:
    """Read the data in trial order until all are read or time is up."""
    if task.sources.index_path is None:
        return _read_own(task, payload)
    index = PairIndex.open(task.sources.index_path)
    began_s, read_bytes, samples = time.monotonic(), 0, 0
    for number in shuffled(len(index), task.order_seed):
        if time.monotonic() - began_s > task.limit_s:
            break
        for path in index.files(int(number)):
            read_bytes += _read_through(path)
        samples += 1
    return CacheRead(
        samples=samples,
        is_complete=samples == len(index),
        read_bytes=read_bytes,
        seconds=time.monotonic() - began_s,
    )


def _read_own(task: CacheTask, payload: Payload) -> CacheRead:
    """Go through the user's own data; stop early where it reads nothing from storage, being warm or no files at all."""
    source = open_source(task.workload, task.sources, payload)
    began_s, samples, bytes_before = time.monotonic(), 0, _bytes_from_storage()
    keys = _keys(source, task.order_seed)
    items = iter(source.dataset) if keys is None else (source.dataset[key] for key in keys)
    is_complete = True
    for _ in items:
        samples += 1
        elapsed_s = time.monotonic() - began_s
        is_idle = elapsed_s > STORAGE_LOOK_S and _bytes_from_storage() - bytes_before < STORAGE_LOOK_BYTES
        if elapsed_s > task.limit_s or is_idle:
            is_complete = is_idle
            break
    return CacheRead(
        samples=samples,
        is_complete=is_complete,
        read_bytes=_bytes_from_storage() - bytes_before,
        seconds=time.monotonic() - began_s,
    )


def _keys(source: DataSource, order_seed: int) -> Iterable[Any] | None:
    """Return what the data are asked for in an epoch: by the loader's own sampler, which may repeat or leave out.

    None where they are walked through instead.
    """
    loader: DataLoader[object] | None = source.loader
    if source.is_iterable or (loader is None and not source.sample_count):
        return None
    if loader is None:
        return (int(number) for number in shuffled(source.sample_count or 0, order_seed))
    return loader.sampler if loader.batch_sampler is None else chain.from_iterable(loader.batch_sampler)


def _bytes_from_storage() -> int:
    """Return the bytes that this process had fetched from storage; 0 where the kernel does not say."""
    try:
        lines = Path("/proc/self/io").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), 0)


def _read_through(path: str) -> int:
    """Read a regular file and drop its content; 0 where it cannot be read, which its trial will say."""
    total = 0
    try:
        if Path(path).is_file():
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - unbuffered: the bytes are not wanted
                while chunk := file.read(READ_CHUNK_BYTES):
                    total += len(chunk)
    except OSError:
        return 0
    return total


def forget_files(index_path: str, order_seed: int, first_sample: int) -> None:
    """Ask the kernel to drop the clean pages of the files that a trial is about to read.

    Args:
        index_path: The pairs.
        order_seed: Of the trial's order.
        first_sample: Where in it the trial begins.
    """
    index = PairIndex.open(index_path)
    epoch, skip = divmod(first_sample, len(index))
    for number in shuffled(len(index), order_seed, epoch)[skip : skip + COLD_SAMPLES_MAX]:
        for path in index.files(int(number)):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
