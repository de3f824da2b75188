"""What does one leg consist of? The data, device, training step and loader that a TrialSpec asks for, built."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import torch
from torch.utils.data import DataLoader

from loadtune.dataset.index import PairIndex
from loadtune.measure.accelerator import Accelerator
from loadtune.measure.cpu import CpuAccelerator
from loadtune.measure.cuda import CudaAccelerator
from loadtune.measure.loader import StampedBatch, build_loader
from loadtune.measure.replay import ReplayAccelerator
from loadtune.records.messages import Sources
from loadtune.records.settings import DEFAULT_PREFETCH_FACTOR, Settings, TrialSpec, WorkloadSpec
from loadtune.records.stored import Shards
from loadtune.workload.segmentation import SegmentationDataset, ShardDataset
from loadtune.workload.sources import FilePairs, TableRows
from loadtune.workload.target import DataSource, describe_dataset, prepare_pictures, resolve_dataset
from loadtune.workload.training import build_step, synthetic_batch


@dataclass(slots=True)
class Leg:
    """Everything that the loop needs, ready to start; the loader's workers are not started yet."""

    spec: TrialSpec
    accelerator: Accelerator
    host_batch: Callable[[], Any]
    """Makes a batch like the loader's, on the host: device warm-up and the resident and cached feeds train on it."""
    loader: DataLoader[Any] | None
    build_s: float
    synchronisations: int | None = None
    """Times that one step waits for the device; None where it was not looked for."""


def describe_settings(loader: DataLoader[Any], batch_size: int) -> Settings:
    """Return a ready DataLoader's own settings, what equals torch's default left out.

    Args:
        loader: The user's.
        batch_size: Samples that one batch of it was seen to hold.
    """
    workers = loader.num_workers
    prefetch = loader.prefetch_factor if workers and loader.prefetch_factor != DEFAULT_PREFETCH_FACTOR else None
    return Settings(
        num_workers=workers,
        batch_size=batch_size,
        prefetch_factor=prefetch,
        pin_memory=bool(loader.pin_memory),
        persistent_workers=bool(loader.persistent_workers and workers),
        in_order=bool(getattr(loader, "in_order", True)),
    )


class Payload(dict[str, Any]):
    """Objects handed over by value: "dataset" (or a DataLoader), and the parts of a step, each if given."""


def read_payload(sources: Sources) -> Payload:
    """Return the caller's objects. They come from the process that started this one, never from a file."""
    if sources.payload_path is None:
        return Payload()
    with open(sources.payload_path, "rb") as file:  # noqa: PTH123 - a descriptor of the parent's, not a path
        return Payload(cloudpickle.load(file))


def has_data(workload: WorkloadSpec, sources: Sources, payload: Payload) -> bool:
    """Say whether there is anything to load; a recording of a device needs nothing."""
    is_named = workload.dataset_target is not None or workload.stored is not None
    return is_named or sources.index_path is not None or "dataset" in payload


def open_source(workload: WorkloadSpec, sources: Sources, payload: Payload) -> DataSource:
    """Return the data: handed over, named by the user, tables, shards, or the listed pairs.

    Raises:
        TargetError: The user's data set cannot be loaded, or is none.
    """
    if "dataset" in payload:
        handed = describe_dataset(payload["dataset"], "you handed over")
        return replace(prepare_pictures(handed, workload), was_handed_over=True)
    if workload.dataset_target is not None:
        return prepare_pictures(resolve_dataset(workload.dataset_target, workload), workload)
    if isinstance(workload.stored, Shards):
        stream = ShardDataset(workload.stored, workload)
        count = workload.sample_count
        return DataSource(stream, None, is_iterable=True, sample_count=count, fixed_axes=("sample order: the shards'",))
    if workload.stored is not None:
        return _map_style(SegmentationDataset(TableRows(workload.stored, workload.masks), workload))
    if sources.index_path is None:
        raise ValueError("a workload has a data set target, an index, stored samples, or a payload")
    pairs = FilePairs(PairIndex.open(sources.index_path), workload.masks)
    return _map_style(SegmentationDataset(pairs, workload))


def _map_style(dataset: SegmentationDataset) -> DataSource:
    return DataSource(dataset, None, is_iterable=False, sample_count=len(dataset), fixed_axes=())


def build_leg(
    spec: TrialSpec,
    sources: Sources,
    payload: Payload,
    started: Callable[[Accelerator], None],
    *,
    is_plain: bool = False,
) -> Leg:
    """Build data, device, step and loader.

    Args:
        spec: The trial.
        sources: Where data are.
        payload: The caller's objects.
        started: Told of the accelerator as soon as there is one, before anything can run out of its memory.
        is_plain: Whether the loader puts no stamps into its batches.

    Raises:
        TargetError: What the user handed over cannot be used.
    """
    began_s = time.monotonic()
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    torch.manual_seed(spec.order_seed)
    steps: list[Callable[[Any], None]] = []
    accelerator = open_accelerator(spec, lambda batch: steps[0](batch))  # noqa: PLW0108 - the step is built later
    started(accelerator)
    if spec.consume == "device" and spec.device.kind != "replay":
        device = torch.device("cuda", spec.device.index or 0) if spec.device.kind == "cuda" else torch.device("cpu")
        steps.append(build_step(spec.workload, device, spec.settings.accumulation_steps, **_own(payload)))
    source: DataSource | None = None
    loader = None
    if spec.feed != "resident" and has_data(spec.workload, sources, payload):
        source = open_source(spec.workload, sources, payload)
        loader = build_loader(
            source,
            spec.settings,
            spec.order_seed,
            spec.first_sample,
            epoch_batches=spec.epoch_batches,
            is_plain=is_plain,
        )
    return Leg(
        spec=spec,
        accelerator=accelerator,
        host_batch=lambda: _host_batch(spec, sources, payload, source),
        loader=loader,
        build_s=time.monotonic() - began_s,
    )


def open_accelerator(spec: TrialSpec, train_step: Callable[[Any], None]) -> Accelerator:
    """Return the device that a spec names; where nothing consumes the batches, a CPU that does nothing."""
    if spec.consume == "nothing":
        return CpuAccelerator(_do_nothing)
    if spec.device.kind == "cuda":
        return CudaAccelerator(train_step, spec.device.index or 0)
    if spec.device.kind == "replay":
        if spec.device.profile is None:
            raise ValueError("replay needs a profile")
        return ReplayAccelerator(spec.device.profile, spec.settings.batch_size, spec.order_seed)
    return CpuAccelerator(train_step)


def take_one_batch(source: DataSource, settings: Settings, order_seed: int) -> StampedBatch:
    """Return the first batch of this data, made in a worker.

    A data set that opens its files at the first sample must not open them here, in the process whose workers inherit
    them. Only where a worker cannot (too little shared memory) or the data fail is it made in this process, whose
    exception then is the user's own.
    """
    for num_workers in (1, 0):
        plain = Settings(num_workers=num_workers, batch_size=settings.batch_size)
        try:
            stamped: StampedBatch = next(iter(build_loader(source, plain, order_seed)))
        except Exception:
            if num_workers == 0:
                raise
        else:
            return stamped
    raise AssertionError("the loop returns or raises")


def _host_batch(spec: TrialSpec, sources: Sources, payload: Payload, source: DataSource | None) -> Any:
    """Noise for the built-in data, else a batch of the user's own; nothing where nothing is trained."""
    if spec.device.kind == "replay" or spec.consume == "nothing":
        return None
    if spec.workload.dataset_target is None and "dataset" not in payload:
        return synthetic_batch(spec.workload, spec.settings.batch_size)
    source = source or open_source(spec.workload, sources, payload)
    return take_one_batch(source, spec.settings, spec.order_seed).batch


def _own(payload: Payload) -> dict[str, Any]:
    names = ("model", "loss", "optimizer", "train_step", "val_step")
    return {name: payload[name] for name in names if name in payload}


def _do_nothing(batch: Any) -> None:
    """Consume a batch."""
