"""Realistic reports for the tests of everything that shows one."""

import math

import msgspec

from loadtune.records.measurement import (
    Cause,
    Duel,
    Failure,
    Measurement,
    Role,
    SlicePair,
    Startup,
    TrialResult,
    TrialState,
    Window,
    WorkerCost,
)
from loadtune.records.profile import ProfilePoint, ReplayProfile
from loadtune.records.report import (
    Alternative,
    Baseline,
    Ceilings,
    Cost,
    DatasetSummary,
    Evidence,
    Finding,
    LearningRate,
    LeftOut,
    Recommendation,
    Report,
    Request,
    Speedup,
    Verdict,
)
from loadtune.records.resources import (
    Environment,
    GpuSample,
    HostLimits,
    HostSample,
    ResourceTrace,
    Unavailable,
)
from loadtune.records.settings import Consume, DeviceChoice, Feed, Settings, WorkloadSpec
from loadtune.schedule.pasting import Tuned, add_code

GIB = 1024**3

PROFILE = ReplayProfile(
    name="RTX 3090, DeepLabv3+ R50 513 px",
    origin="estimated",
    points=(
        ProfilePoint(batch_size=8, device_s=0.112, spread_s=0.002, host_cpu_s=0.02, copy_s=0.004),
        ProfilePoint(batch_size=16, device_s=0.2, spread_s=0.003, host_cpu_s=0.021, copy_s=0.008),
        ProfilePoint(batch_size=32, device_s=0.385, spread_s=0.004, host_cpu_s=0.022, copy_s=0.016),
    ),
)
REPLAY = DeviceChoice(kind="replay", profile=PROFILE)
CPU = DeviceChoice(kind="cpu")

LINEAR_RULE = "linear scaling for SGD, Goyal et al. 2017"


def settings(num_workers: int, batch_size: int, **other: object) -> Settings:
    """Return a setting, torch's defaults for what is not given."""
    return Settings(num_workers=num_workers, batch_size=batch_size, **other)  # type: ignore[arg-type]


def environment(*warnings: str) -> Environment:
    """Return an 8-core machine without a GPU."""
    return Environment(
        platform="Linux-6.1-x86_64",
        cpu_model="AMD EPYC 7763 64-Core Processor",
        python="3.11.9",
        versions={"torch": "2.15.0", "torchvision": "0.29.2", "loadtune-probe": "0.1.0"},
        limits=HostLimits(
            usable_cores=8.0,
            affinity_cores=8,
            memory_limit_bytes=32 * GIB,
            memory_available_bytes=28 * GIB,
            shm_total_bytes=16 * GIB,
            shm_free_bytes=16 * GIB,
            open_files_limit=1024,
        ),
        start_method="fork",
        file_system="ext4",
        warnings=warnings,
        unavailable=(Unavailable(reading="gpus", reason="NVML is not installed: libnvidia-ml.so.1 not found"),),
    )


def request(device: DeviceChoice = REPLAY, baseline: Settings | None = None) -> Request:
    """Return what a user asked for on the command line."""
    asked = ("--step-time", "0.2") if device.kind == "replay" else ("--device", "cpu")
    baseline = baseline or settings(0, 16)
    as_typed = f"num_workers={baseline.num_workers},batch_size={baseline.batch_size}"
    return Request(
        command=(
            "loadtune",
            "probe",
            "--dataset",
            "data/voc33",
            *asked,
            "--baseline",
            as_typed,
        ),
        dataset="data/voc33",
        device=device,
        workload=WorkloadSpec(sample_count=10582),
        budget_s=120.0,
        baseline=baseline,
        baseline_origin="--baseline",
    )


def dataset() -> DatasetSummary:
    """Return a recognised Pascal VOC folder."""
    return DatasetSummary(
        source="data/voc33",
        layout="voc",
        described="Pascal VOC: images in JPEGImages, masks in SegmentationClass",
        sample_count=10582,
        split="train",
        left_out=(LeftOut(reason="image without a mask", count=2, examples=("JPEGImages/2007_000027.jpg",)),),
        total_bytes=2 * GIB,
        class_count=21,
        is_binary_mask=False,
    )


def measurement(rate_per_s: float, batch_size: int, stall_ratio: float | None, windows: int = 3) -> Measurement:
    """Return windows that give exactly this rate, with some spread between them."""
    samples = 4 * batch_size
    factors = [1 + 0.02 * math.sin(3 * index) for index in range(windows)]
    scale = windows / sum(factors)
    length_s = samples / rate_per_s
    stall = stall_ratio or 0.0
    busy = 1 - stall
    return Measurement(
        windows=tuple(
            Window(
                started_s=1.0 + index * length_s,
                duration_s=length_s * factor * scale,
                batches=4,
                samples=samples,
                data_wait_s=length_s * factor * scale * min(1.0, stall + 0.02),
                device_idle_s=None if stall_ratio is None else length_s * factor * scale * stall,
                copy_s=length_s * factor * scale * 0.04 * busy,
                compute_s=length_s * factor * scale * 0.96 * busy,
            )
            for index, factor in enumerate(factors)
        ),
        startup=Startup(
            process_s=0.04,
            build_s=0.6,
            device_warm_up_s=0.3,
            first_batch_s=0.4,
            loader_warm_up_s=1.1,
            shutdown_s=0.1,
        ),
        epoch_boundary_s=0.6,
        step_s=batch_size / rate_per_s,
        stall_ratio=stall_ratio,
        worker=WorkerCost(cpu_s_per_sample=0.031, sample_bytes=3_200_000),
        samples_seen=samples * windows,
    )


def trace(cores: float, memory_bytes: int) -> ResourceTrace:
    """Return what was watched, without per-process memory."""
    return ResourceTrace(
        started_monotonic_s=100.0,
        host=(HostSample(at_s=0.5, worker_cores=cores, main_cores=0.3, memory_bytes=memory_bytes),),
        gpu=(GpuSample(at_s=0.5, utilisation_ratio=0.8),),
        gpu_is_replayed=True,
        peak_memory_bytes=int(memory_bytes * 1.4),
        pss_bytes=memory_bytes,
        mean_worker_cores=cores,
        mean_main_cores=0.31,
        mean_foreign_cores=0.2,
        miss_ratio=0.0,
        utilisation_mean_ratio=0.8,
        jitter_ratio=0.12,
    )


def complete(
    number: int,
    setting: Settings,
    rate_per_s: float,
    *,
    role: Role = "grid",
    stall_ratio: float | None = 0.01,
    spread_ratio: float | None = 0.024,
    is_watched: bool = True,
) -> TrialResult:
    """Return a trial that measured `rate_per_s`."""
    feeds: dict[Role, Feed] = {"ceiling": "resident"}
    consumers: dict[Role, Consume] = {"loader": "nothing"}
    measured = measurement(rate_per_s, setting.batch_size, stall_ratio)
    memory = int((0.9 + 0.42 * setting.num_workers) * GIB)
    return TrialResult(
        number=number,
        role=role,
        spec_key=f"{number:016x}",
        state=TrialState.COMPLETE,
        settings=setting,
        feed=feeds.get(role, "loader"),
        consume=consumers.get(role, "device"),
        rate_per_s=measured.rate_per_s,
        spread_ratio=spread_ratio,
        started_s=6.0 * number,
        seconds_spent=5.8,
        measurement=measured,
        trace=trace(min(7.5, 0.95 * setting.num_workers + 0.1), memory) if is_watched else None,
    )


def failed(number: int, setting: Settings, state: TrialState, failure: Failure) -> TrialResult:
    """Return a trial that did not complete."""
    return TrialResult(
        number=number,
        role="grid",
        spec_key=f"{number:016x}",
        state=state,
        settings=setting,
        started_s=6.0 * number,
        seconds_spent=0.0 if state is TrialState.SKIPPED else 4.2,
        failure=failure,
    )


OUT_OF_MEMORY = Failure(
    cause=Cause.HOST_MEMORY,
    message="ended by loadtune at 28.8 GiB, 90 % of the 32 GiB limit",
    hint="use fewer workers or a smaller prefetch_factor",
    log_tail="loading 2009_001314.jpg\nRuntimeError: DataLoader worker (pid 4242) is killed by signal.",
    signal=9,
)
SKIPPED = Failure(
    cause=Cause.SHARED_MEMORY,
    message="24 workers x 2 batches x 98 MiB = 4.6 GiB would exceed 4.0 GiB of /dev/shm",
    hint="docker run --shm-size=6g",
)


def duel(ratio: float, spread: float, baseline: Settings, contender: Settings, pairs: int = 12) -> Duel:
    """Return slice pairs whose ratios lie around `ratio`."""
    return Duel(
        baseline=baseline,
        contender=contender,
        method="frozen",
        pairs=tuple(
            SlicePair(
                baseline_samples=82.0,
                baseline_s=2.0,
                contender_samples=82.0 * ratio * math.exp(spread * math.sin(2.4 * index)),
                contender_s=2.0,
                baseline_first=index % 2 == 0,
                restart=int(index >= pairs // 2),
                foreign_cores=0.2,
                flags=("foreign CPU",) if index == 4 else (),
            )
            for index in range(pairs)
        ),
        slice_s=2.0,
        head_s=0.3,
        seconds_spent=4.7 * pairs,
    )


def learning_rate(batch_size: int = 16, factor: float = 1.0) -> LearningRate:
    """Return what a batch asks of the rate."""
    return LearningRate(factor=factor, rate=0.007 * factor, rule=LINEAR_RULE, base_batch_size=16, batch_size=batch_size)


def rescaled(batch_size: int, factor: float) -> LearningRate:
    """Return what another batch asks of the rate, with its code, for a training of which the rate alone was told."""
    tuned = Tuned(optimizer="sgd", learning_rate=0.007, batch_size=16, sample_count=10_582)
    return add_code(learning_rate(batch_size, factor), tuned, batch_size, 1)


STALL = Finding(
    rule="loader-stall",
    severity="advice",
    title="At your setting the device waits for data",
    detail="It stood idle 48 % of the time for want of a batch, above the 5 % that count as a stall.",
    action="Use more workers: 8 cores are usable and 1.1 are busy.",
    evidence=(
        Evidence(name="stall_ratio", value=0.48, threshold=0.05, source="method notes, 4.3"),
        Evidence(name="worker_cores", value=1.1, unit="cores"),
    ),
)
PAGE_CACHE = Finding(
    rule="page-cache",
    severity="warning",
    title="The data set fits in memory",
    detail="Its 2.0 GiB were read from the page cache: 0 % of the bytes came from storage.",
    action="A first epoch is slower; measure one with --cold.",
    evidence=(Evidence(name="miss_ratio", value=0.0),),
)


def _faster_trials() -> tuple[TrialResult, ...]:
    """Return a grid of two batch sizes with its ceiling, a skip and an out-of-memory."""
    rates = {(2, 16): 62.4, (4, 16): 78.1, (6, 16): 79.4, (8, 16): 79.2, (16, 16): 78.8}
    rates |= {(0, 32): 40.1, (2, 32): 61.9, (4, 32): 80.3, (6, 32): 82.2, (8, 32): 82.4}
    trials = [
        complete(1, settings(0, 16), 80.2, role="ceiling", stall_ratio=0.0),
        complete(2, settings(0, 16), 41.2, role="baseline", stall_ratio=0.486),
        complete(3, settings(4, 16), 103.0, role="loader", stall_ratio=None),
    ]
    for (num_workers, batch_size), rate in rates.items():
        stall = max(0.0, 1 - rate / 82.5)
        spread = 0.02 + 0.01 * (num_workers % 3)
        number = len(trials) + 1
        trials.append(complete(number, settings(num_workers, batch_size), rate, stall_ratio=stall, spread_ratio=spread))
    number = len(trials) + 1
    trials.append(failed(number, settings(16, 32), TrialState.OUT_OF_MEMORY, OUT_OF_MEMORY))
    trials.append(failed(number + 1, settings(24, 32), TrialState.SKIPPED, SKIPPED))
    return tuple(trials)


def faster_report() -> Report:
    """FASTER on a replayed GPU, with a tie, two alternatives, a skipped and a failed trial."""
    recommendation = Recommendation(
        verdict=Verdict.FASTER,
        settings=settings(4, 16),
        rate_per_s=78.1,
        baseline=Baseline(settings=settings(0, 16), rate_per_s=41.2, origin="--baseline"),
        speedup=Speedup(estimate=1.9, low=1.83, high=1.97, smallest_detectable_ratio=1.04, pairs=12),
        learning_rate=learning_rate(),
        cost=Cost(
            memory_bytes=int(1.68 * GIB),
            cores=3.8,
            unavailable=("VRAM: a replayed profile occupies no device memory",),
        ),
        ties=(settings(6, 16), settings(8, 16), settings(16, 16)),
        alternatives=(
            Alternative(
                kind="larger batch",
                settings=settings(4, 32),
                rate_per_s=80.3,
                screening_ratio=1.95,
                learning_rate=rescaled(32, 2.0),
            ),
        ),
        reasons=("6 workers are 1.7 % faster, within the 3 % of a tie, and take 2 more processes and 0.84 GiB.",),
        hours_saved=1.01,
        hours_saved_basis="30 epochs of 10,582 samples",
        epoch_rate_per_s=77.8,
    )
    return Report(
        loadtune_version="0.1.0",
        created="2026-11-24T09:30:00+00:00",
        status="complete",
        request=request(),
        environment=environment("CPU frequency governor is powersave\nhint: set it to performance while measuring"),
        dataset=dataset(),
        trials=_faster_trials(),
        duels=(duel(1.9, 0.05, settings(0, 16), settings(4, 16)),),
        ceilings=Ceilings(
            device_rate_per_s=80.2, loader_rates_per_s={"0": 44.0, "2": 66.2, "4": 103.0}, reached_ratio=0.974
        ),
        findings=(STALL, PAGE_CACHE),
        recommendation=recommendation,
        search_notes=("16 workers were added: the best of the first round lay at the edge.",),
        seconds_spent=117.6,
        start_up_s=5.2,
    )


def same_report() -> Report:
    """SAME on the user's own setting, which is kept."""
    yours = settings(4, 16)
    trials = (
        complete(1, yours, 80.2, role="ceiling", stall_ratio=0.0),
        complete(2, yours, 79.0, role="baseline"),
        complete(3, settings(8, 16), 79.3),
    )
    recommendation = Recommendation(
        verdict=Verdict.SAME,
        settings=yours,
        rate_per_s=79.0,
        baseline=Baseline(settings=yours, rate_per_s=79.0, origin="--baseline"),
        speedup=Speedup(estimate=1.0, low=0.985, high=1.015, smallest_detectable_ratio=1.02, pairs=10),
        learning_rate=learning_rate(),
        cost=Cost(memory_bytes=0, cores=0.0, device_memory_bytes=0),
        reasons=("8 workers are 0.4 % faster, within the 3 % of a tie.",),
    )
    return Report(
        loadtune_version="0.1.0",
        created="2026-11-24T09:30:00+00:00",
        status="complete",
        request=request(baseline=yours),
        environment=environment(),
        dataset=dataset(),
        trials=trials,
        duels=(duel(1.0, 0.02, yours, settings(8, 16), pairs=10),),
        ceilings=Ceilings(device_rate_per_s=80.2, reached_ratio=0.985),
        recommendation=recommendation,
        seconds_spent=84.0,
    )


def inconclusive_report() -> Report:
    """INCONCLUSIVE on the CPU of a small machine: little watched, no ceiling, broken samples."""
    trials = (
        complete(1, settings(0, 2), 0.512, role="baseline", stall_ratio=None, is_watched=False),
        complete(2, settings(1, 2), 0.531, stall_ratio=None, spread_ratio=None, is_watched=False),
        complete(3, settings(0, 2), 12.1, role="loader", stall_ratio=None),
        complete(4, settings(1, 2), 14.5, role="loader", stall_ratio=None),
    )
    recommendation = Recommendation(
        verdict=Verdict.INCONCLUSIVE,
        settings=settings(1, 2),
        rate_per_s=0.531,
        baseline=Baseline(settings=settings(0, 2), rate_per_s=0.512, origin="torch's default"),
        speedup=Speedup(estimate=1.04, low=0.93, high=1.16, smallest_detectable_ratio=1.11, pairs=8),
        learning_rate=learning_rate(2),
        cost=Cost(memory_bytes=-int(0.2 * GIB), unavailable=("CPU: psutil could not read the workers",)),
    )
    return Report(
        loadtune_version="0.1.0",
        created="2026-11-24T09:30:00+00:00",
        status="complete",
        request=request(CPU, settings(0, 2)),
        environment=environment(),
        dataset=_with_a_broken_sample(dataset()),
        trials=trials,
        duels=(duel(1.04, 0.15, settings(0, 2), settings(1, 2), pairs=8),),
        ceilings=Ceilings(device_rate_reason="the budget ended before it", loader_rates_per_s={"0": 12.1, "1": 14.5}),
        recommendation=recommendation,
        warnings=("the budget ended the duel early\nhint: give it more time with --budget 240s",),
        seconds_spent=119.2,
    )


def _with_a_broken_sample(summary: DatasetSummary) -> DatasetSummary:
    """Return the data set with one broken sample."""
    return msgspec.structs.replace(
        summary, bad_samples=("JPEGImages/2008_0001.jpg: truncated after 4096 bytes",), bad_sample_count=1
    )


def interrupted_report() -> Report:
    """Ctrl-C before the duel: trials and no recommendation."""
    return Report(
        loadtune_version="0.1.0",
        created="2026-11-24T09:30:00+00:00",
        status="interrupted",
        request=request(),
        environment=environment(),
        dataset=dataset(),
        trials=(*_faster_trials()[:5], *_faster_trials()[-1:]),
        seconds_spent=31.0,
    )


def single_trial_report() -> Report:
    """One window of one trial: no spread, nothing to compare."""
    return Report(
        loadtune_version="0.1.0",
        created="2026-11-24T09:30:00+00:00",
        status="running",
        request=request(CPU),
        environment=environment(),
        dataset=dataset(),
        trials=(complete(1, settings(0, 16), 41.2, role="baseline", spread_ratio=None, is_watched=False),),
        seconds_spent=9.0,
    )


def empty_report() -> Report:
    """Nothing ran."""
    return Report(
        loadtune_version="0.1.0",
        created="2026-11-24T09:30:00+00:00",
        status="failed",
        request=request(),
        environment=environment(),
        dataset=dataset(),
    )


HOSTILE = "</script><b>bold</b> \x1b[31m{{ 7 * 7 }} [bold]x[/bold] <!--"
NOT_UTF8 = "photo-\udcff.png"
REORDERING = "exe\u202egpj.png"


def hostile_report() -> Report:
    """Names that try to act on the page or the terminal, and one that is not UTF-8."""
    report = faster_report()
    crash = Failure(
        cause=Cause.USER_CODE,
        message=f"ValueError: {HOSTILE}",
        hint=HOSTILE,
        log_tail=f"first line of {NOT_UTF8}\n{HOSTILE}\n{REORDERING}",
    )
    profile = msgspec.structs.replace(PROFILE, name=HOSTILE)
    return msgspec.structs.replace(
        report,
        request=msgspec.structs.replace(
            report.request,
            command=("loadtune", "probe", "--dataset", HOSTILE),
            dataset=HOSTILE,
            device=DeviceChoice(kind="replay", profile=profile),
        ),
        dataset=DatasetSummary(
            source=HOSTILE,
            layout="paired",
            described=f"images in {HOSTILE}\nsecond line",
            sample_count=3,
            left_out=(LeftOut(reason="not an image", count=1, examples=(NOT_UTF8,)),),
            fixed_axes=(HOSTILE,),
            bad_samples=(f"{NOT_UTF8}: {REORDERING}",),
            bad_sample_count=1,
        ),
        trials=(*report.trials, failed(90, settings(3, 16), TrialState.FAILED, crash)),
        warnings=(HOSTILE,),
        search_notes=(HOSTILE,),
    )


EXAMPLES = {
    "faster": faster_report,
    "same": same_report,
    "inconclusive": inconclusive_report,
    "interrupted": interrupted_report,
    "single-trial": single_trial_report,
    "empty": empty_report,
    "hostile": hostile_report,
}
