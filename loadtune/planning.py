"""What exactly is measured, given what the user said and what machine and data are? Pure: all of it is handed in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import msgspec

from loadtune.advice.axes import auto_batches, auto_workers, default_baseline, worker_ladder
from loadtune.advice.feasibility import ACTIVATION_BYTES_PER_PIXEL, Needs, Obstacle, main_threads
from loadtune.advice.grid import GridSearch
from loadtune.advice.guided import GuidedSearch
from loadtune.advice.search import Leg, Search, with_axes
from loadtune.advice.terms import Terms
from loadtune.errors import DeviceError, UsageError
from loadtune.options import (
    DEFAULT_BATCH_SIZES,
    ProbeOptions,
    parse_batches,
    parse_device,
    parse_schedule,
    parse_settings,
    parse_workers,
    warn_of_schedule,
)
from loadtune.records.messages import Inspected
from loadtune.records.resources import HostLimits
from loadtune.records.settings import (
    CacheState,
    DeviceChoice,
    MeasureOptions,
    Precision,
    SearchKind,
    Settings,
    TrialSpec,
    WorkloadSpec,
)
from loadtune.records.stored import PLAIN_MASKS, Masks, Shards, Stored

CUDA_INDEX_DEFAULT = 0
WARM_UP_SHARE = 0.05
"""Of the budget, the longest loader warm-up of one trial: 6 s of 120 s."""
CAP_SHARE = 0.2
"""Of the budget, the longest a trial may take from loader start to result; else one slow cell eats the search."""
CAP_MIN_S, CAP_MAX_S = 8.0, 60.0
FEW_BATCHES = 8
"""Batches an epoch below which the worker counts to choose from are few enough to be said."""
SILENCE_SHARE = 0.5
"""Of the budget, the longest silence of a trial before it counts as hung; never above the default of 60 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A probe made definite."""

    device: DeviceChoice
    workload: WorkloadSpec
    baseline: Settings
    baseline_origin: str
    num_workers: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    may_extend_workers: bool
    may_extend_batch: bool
    measure: MeasureOptions
    limits: HostLimits
    needs: Needs
    terms: Terms
    is_iterable: bool = False
    """The data set itself says where its epochs end."""
    warnings: tuple[str, ...] = ()

    def spec(self, leg: Leg, cache: CacheState, first_sample: int, order_seed: int) -> TrialSpec:
        """Return what the trial process needs for a leg."""
        alone = with_axes(leg.settings, 0, leg.settings.batch_size)  # the device's ceiling shares no core with workers
        setting, threads = alone if leg.feed == "resident" else leg.settings, leg.settings.main_threads
        if threads is None and self.device.kind == "cpu":
            threads = main_threads(setting, self.limits.usable_cores)
        return TrialSpec(
            settings=leg.settings,
            device=self.device,
            workload=self.workload,
            feed=leg.feed,
            consume=leg.consume,
            threads=threads,
            cache=cache,
            order_seed=order_seed,
            first_sample=first_sample,
            repeat=leg.round,
            measure=msgspec.structs.replace(
                self.measure,
                window_min_s=min(self.measure.window_min_s, leg.measure_s / self.measure.windows_min),
                measure_s=leg.measure_s,
            ),
        )


def workload_to_look_at(
    options: ProbeOptions,
    dataset_target: str | None,
    masks: Masks = PLAIN_MASKS,
    stored: Stored | None = None,
    sample_count: int | None = None,
) -> WorkloadSpec:
    """Return what is known of the workload before the data were looked at."""
    return WorkloadSpec(
        dataset_target=dataset_target,
        import_limit_s=options.import_limit_s,
        masks=masks,
        stored=stored,
        sample_count=sample_count,
    )


def wanted_cuda(options: ProbeOptions) -> int | None:
    """Return the CUDA device to look at: that asked for, the first where "auto" must know, else none."""
    device = parse_device(options, 1)
    if device is None:
        return CUDA_INDEX_DEFAULT
    return device.index if device.kind == "cuda" else None


def make_plan(options: ProbeOptions, workload: WorkloadSpec, limits: HostLimits, inspected: Inspected) -> Plan:
    """Settle device, baseline, axes and workload.

    Raises:
        DeviceError: The CUDA device asked for is not there.
        UsageError: The baseline contradicts what the user's loader fixes, or BatchNorm.
    """
    batch_sizes = parse_batches(options)
    device = _choose_device(options, inspected)
    own_batch, baseline, origin = _choose_baseline(options, device, limits, inspected, batch_sizes)
    if options.step_time_s is not None:
        device = parse_device(options, own_batch) or device
    workers = parse_workers(options)
    is_batch_fixed = inspected.fixed_batch_size is not None
    count = inspected.sample_count
    terms = _make_terms(options, baseline, origin, inspected)
    epoch = terms.count_epoch(options.base_batch_size or baseline.batch_size)
    return Plan(
        device=device,
        workload=_settle_workload(options, workload, device, inspected),
        baseline=baseline,
        baseline_origin=origin,
        num_workers=workers if workers is not None else _auto_workers(limits, workload, count, own_batch, device),
        batch_sizes=(own_batch,) if is_batch_fixed else batch_sizes or auto_batches(own_batch, device.kind, count),
        may_extend_workers=workers is None and not isinstance(workload.stored, Shards),
        may_extend_batch=batch_sizes is None and not is_batch_fixed and device.kind != "cpu",
        measure=_measure_options(options.budget_s),
        limits=limits,
        needs=_needs(options, device, inspected),
        is_iterable=inspected.is_iterable,
        terms=replace(terms, schedule=parse_schedule(options, baseline.effective_batch_size, epoch)),
        warnings=(*_warnings(options, device, inspected, own_batch, workload), *warn_of_schedule(options, epoch)),
    )


def _make_terms(options: ProbeOptions, baseline: Settings, origin: str, inspected: Inspected) -> Terms:
    return Terms(
        baseline=baseline,
        baseline_origin=origin,
        optimizer=options.optimizer,
        base_batch_size=options.base_batch_size,
        learning_rate=options.learning_rate,
        sample_count=inspected.sample_count,
        is_rank_share=inspected.is_rank_share,
        drop_last=inspected.drop_last,
        epochs=options.epochs,
        accumulate=options.accumulate > 1,
        world_size=options.world_size,
        noise_scale=options.noise_scale,
        handed_optimizer=options.handed_optimizer,
        is_training=options.purpose == "train",
    )


def _auto_workers(
    limits: HostLimits, workload: WorkloadSpec, count: int | None, batch_size: int, device: DeviceChoice
) -> tuple[int, ...]:
    """Return the worker counts of the grid, none beyond the number of shards."""
    counts = auto_workers(limits.usable_cores, count, batch_size, device.kind)
    most = len(workload.stored.paths) if isinstance(workload.stored, Shards) else max(counts)
    return tuple(sorted({*(each for each in counts if each <= most), min(most, max(counts))}))


def make_search(plan: Plan, obstacle: Callable[[Settings], Obstacle | None], kind: SearchKind, seed: int) -> Search:
    """Return the search over this plan's settings."""
    if kind == "guided":
        more = (max(plan.batch_sizes) * 2**power for power in range(1, 3)) if plan.may_extend_batch else ()
        count = plan.workload.sample_count
        return GuidedSearch(
            plan.baseline,
            worker_ladder(_workers_max(plan)) if plan.may_extend_workers else plan.num_workers,
            (*plan.batch_sizes, *(size for size in more if count is None or size <= count)),
            cores=plan.limits.usable_cores,
            obstacle=obstacle,
            spare_cores=plan.limits.spare_cores,
            is_watched=plan.device.kind == "cuda",
            seed=seed,
        )
    loader_alone = None
    if plan.device.kind == "cpu":
        most = max(*plan.num_workers, int(plan.limits.usable_cores))
        loader_alone = [0, *(2**power for power in range(most.bit_length()))]
    return GridSearch(
        plan.baseline,
        plan.num_workers,
        plan.batch_sizes,
        may_extend_workers=plan.may_extend_workers,
        may_extend_batch=plan.may_extend_batch,
        workers_max=_workers_max(plan),
        batch_max=max(plan.batch_sizes) * 4,
        obstacle=obstacle,
        loader_alone=loader_alone,
        spare_cores=plan.limits.spare_cores,
        seed=seed,
    )


def _workers_max(plan: Plan) -> int:
    """Return the most workers that an epoch has batches for, at most four times the grid's own largest."""
    most = 4 * max(1, *plan.num_workers)
    count = plan.workload.sample_count
    return most if count is None else max(1, min(most, count // plan.baseline.batch_size))


def _choose_device(options: ProbeOptions, inspected: Inspected) -> DeviceChoice:
    device = parse_device(options, 1)
    if device is None:
        return DeviceChoice(kind="cuda", index=CUDA_INDEX_DEFAULT) if inspected.cuda else DeviceChoice(kind="cpu")
    if device.kind == "cuda" and inspected.cuda is None:
        raise DeviceError(
            f"--device {device.name}: {inspected.cuda_reason}",
            "use --device cpu, or replay a GPU: --step-time SECONDS, or --device replay:FILE",
        )
    return device


def _choose_baseline(
    options: ProbeOptions,
    device: DeviceChoice,
    limits: HostLimits,
    inspected: Inspected,
    batch_sizes: tuple[int, ...] | None,
) -> tuple[int, Settings, str]:
    """Return the user's batch size, what they run today, and where that is known from."""
    count, default = inspected.sample_count, DEFAULT_BATCH_SIZES[device.kind]
    if count is not None:
        default = max(2, min(default, count))
    handed = inspected.loader_settings
    own = inspected.fixed_batch_size or (batch_sizes[0] if batch_sizes else handed.batch_size if handed else default)
    if options.baseline is not None:
        baseline, origin = parse_settings(options.baseline, own, handed), "--baseline"
        origin += "" if handed is None else ", the rest as in the DataLoader that was handed over"
        own = baseline.batch_size
    elif handed is not None:
        baseline = msgspec.structs.replace(handed, batch_size=own)
        origin = "the DataLoader that was handed over"
    else:
        baseline, origin = default_baseline(limits.affinity_cores, own), "torch's own suggestion: one worker a core"
        if device.kind == "cpu":
            baseline = Settings(num_workers=max(0, int(limits.usable_cores) - 1), batch_size=own)
            origin = "one worker a core that training on this CPU leaves"
    if inspected.fixed_batch_size not in {None, own}:
        raise UsageError(
            f"batch_size={own}: your loader fixes {inspected.fixed_batch_size}",
            "leave batch_size out of --baseline, or hand over a loader without its own batch_sampler",
        )
    if options.accumulate > 1:
        baseline = msgspec.structs.replace(baseline, accumulation_steps=options.accumulate)
    return own, baseline, origin


def _settle_workload(
    options: ProbeOptions, workload: WorkloadSpec, device: DeviceChoice, inspected: Inspected
) -> WorkloadSpec:
    crop_px = options.crop_on(device.kind)
    has_bf16 = inspected.cuda is not None and inspected.cuda.has_bf16
    # A network that was handed over may be trained in fp32, and some losses cannot be had under autocast.
    is_ours = not options.objects.keys() & {"model", "loss"}
    default_precision: Precision = "bf16" if device.kind == "cuda" and has_bf16 and is_ours else "fp32"
    return msgspec.structs.replace(
        workload,
        sample_count=inspected.sample_count,
        masks=inspected.masks or workload.masks,
        crop_px=crop_px,
        base_size_px=options.base_size_px or crop_px,
        augment=options.augment,
        class_count=options.class_count or inspected.class_count or workload.class_count,
        is_binary_mask=bool(inspected.is_binary_mask),
        model_target=options.model,
        backbone=options.backbone,
        output_stride=options.output_stride,
        train_step_target=options.train_step,
        optimizer=options.optimizer,
        learning_rate=options.learning_rate,
        precision=options.precision or default_precision,
        channels_last=options.channels_last,
        purpose=options.purpose,
    )


def _needs(options: ProbeOptions, device: DeviceChoice, inspected: Inspected) -> Needs:
    """Return what a sample and a step take: float32 images and int64 labels unless the data are the user's own."""
    crop_px = options.crop_on(device.kind)
    on_cpu = device.kind == "cpu" and options.model is None and options.train_step is None and not options.objects
    return Needs(
        device=device.kind,
        sample_bytes=crop_px**2 * (3 * 4 + 8) if inspected.sample_bytes is None else inspected.sample_bytes,
        tensors_per_batch=inspected.tensors_per_batch,
        activation_bytes_per_sample=ACTIVATION_BYTES_PER_PIXEL * crop_px**2 if on_cpu else 0,
        device_memory_bytes=None
        if inspected.cuda is None
        else max(0, inspected.cuda.memory_bytes - options.held.device_bytes),
    )


def _measure_options(budget_s: float) -> MeasureOptions:
    plain = MeasureOptions()
    return msgspec.structs.replace(
        plain,
        warm_up_s=min(plain.warm_up_s, WARM_UP_SHARE * budget_s),
        cap_s=min(CAP_MAX_S, max(CAP_MIN_S, CAP_SHARE * budget_s)),
        silence_s=min(plain.silence_s, SILENCE_SHARE * budget_s),
    )


def _shard_warnings(options: ProbeOptions, shards: int) -> Iterator[str]:
    """Say where workers would go without a shard."""
    asked = parse_workers(options)
    if asked is None or max(asked) > shards:
        yield (
            f"{shards} shard{'s' if shards > 1 else ''}: a worker beyond that many has nothing to read\n"
            "write the data into more and smaller shards to use more workers"
        )


def _warnings(
    options: ProbeOptions, device: DeviceChoice, inspected: Inspected, own_batch: int, workload: WorkloadSpec
) -> Iterator[str]:
    """Yield what a reader must know before any number, each as what and hint."""
    if device.kind == "cpu" and options.crop_px is None:
        yield (
            f"a CPU trains slowly: by default crops of {options.cpu_crop_px} px, {DEFAULT_BATCH_SIZES['cpu']} a batch\n"
            f"--crop and --batch-size change that; --step-time SECONDS tunes the loader for a GPU instead"
        )
    count, batch = inspected.sample_count, own_batch
    if count is not None and options.num_workers is None and count // batch < FEW_BATCHES:
        yield (
            f"an epoch of {count} samples has {max(1, count // batch)} batches of {batch}: more workers would idle\n"
            "give --num-workers to measure them all the same, as for a larger data set of this kind"
        )
    if isinstance(workload.stored, Shards):
        yield from _shard_warnings(options, len(workload.stored.paths))
    elif inspected.is_iterable:
        yield (
            "an IterableDataset is read by every worker: without sharding by get_worker_info() samples repeat\n"
            "compare the samples of an epoch at 0 and at 2 workers before using more than one"
        )
