"""Which faults does `diagnosis` inject, how hard, which rules name them rightly, and what removes them?

The faults and the names that are right for each were written blind: from the names and meanings of the rules, without
sight of their code or thresholds. Strengths were set again since, where a fault was measured to cost something else
than it is meant to. Pure: a `Recipe` says what a training is made of; `diagnosis_worlds` builds it. Every training is
first made healthy, its device fed with a tenth to spare; a `Fault` then injects one cause, whose strength its seed
draws. Whether that costs a tenth of the throughput is measured, never assumed.

What replay itself supplies (`by_construction`) shows that a rule reads its evidence, not that it would find the cause
on a real device.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from benchmarks.diagnosis_recipe import BATCH, LENGTH, SLOW_EVERY, Recipe

Draw = Callable[[str, float, float], float]
"""Draws a quantity by its name, between two bounds, always the same for a seed."""
Strength = Literal["material", "immaterial", "absent"]
"""material: meant to cost more than a tenth; immaterial: there, and meant to cost less; absent: the healthy control."""

STORAGE_BYTES_PER_S = 9e8
"""What this machine's disk reads; elsewhere the strength differs, and the measured cost says so."""
SHARED_BYTES_PER_S = 1.25e9
"""What two workers here make, collate and share, and main maps: the same applies."""
BOX_S = 6e-7
"""CPU of the main process to unpickle one box of four numbers, on this machine: the same applies."""
SMALL_NUMBERS, SMALL_BYTES = 1 << 6, 1024
"""So little that neither torch nor MKL divides it, nor the stacking of a batch: one thread does it."""

Change = Callable[[Recipe, Draw, Strength], Recipe]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault.

    Attributes:
        right: Rules that name it; `failure:CAUSE` is a baseline that failed, with this cause told.
        inject: Adds the cause.
        settle: Makes the healthy training that it needs, such as samples that compute.
        by_construction: Replay itself supplies it.
        loss: What it costs: samples/s, or memory of the trial's processes.
        strengths: The strengths there are.
        budget_s: Of its probe.
    """

    right: tuple[str, ...]
    inject: Change
    settle: Change = lambda recipe, draw, strength: recipe
    by_construction: bool = False
    loss: Literal["throughput", "memory"] = "throughput"
    strengths: tuple[Strength, ...] = ("material", "immaterial", "absent")
    budget_s: float = 30.0


def drawing(seed: int, kind: str) -> Draw:
    """Return what draws for a seed and a kind."""
    return lambda name, low, high: low * (high / low) ** Random(f"{kind} {name} {seed}").random()


def cores() -> int:
    """Return the cores that workers may use: loads that must fill them are in proportion."""
    return len(os.sched_getaffinity(0))


def pressure(draw: Draw, strength: Strength, *, most: float = 2.2) -> float:
    """Return how many times longer the injected part takes than the device, where the slower sets the pace."""
    return draw("pressure", 1.3, most) if strength == "material" else draw("pressure", 0.4, 0.85)


def share(draw: Draw, strength: Strength) -> float:
    """Return the injected part's share of the time, where it adds to the device's."""
    return draw("share", 0.2, 0.45) if strength == "material" else draw("share", 0.01, 0.05)


def _wait(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    return replace(recipe, wait_s=pressure(draw, strength) * recipe.num_workers * recipe.device_s / BATCH)


def _burn(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    whole_s = pressure(draw, strength) * cores() * recipe.device_s
    return replace(recipe, burn_s=(whole_s - recipe.host_s) / BATCH, num_workers=cores())


def _slow(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    per_batch = BATCH / SLOW_EVERY
    factor = draw("pressure", 1.3, 2.2) if strength == "material" else draw("pressure", 0.05, 0.15)
    return replace(recipe, slow_s=factor * recipe.num_workers * recipe.device_s / per_batch)


def _large(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    times = pressure(draw, strength) * (1.3 if strength == "material" else 1.0)  # it scatters by a third
    return replace(recipe, sample_bytes=int(times * recipe.device_s * SHARED_BYTES_PER_S / BATCH))


def _many(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    times = pressure(draw, strength, most=3.0) * (1.0 if strength == "material" else 0.5)  # it launches besides
    return replace(recipe, boxes=int(times * recipe.device_s / BOX_S / BATCH))


def _grow(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    bounds = (3e6, 6e6) if strength == "material" else (1e4, 5e4)
    return replace(recipe, held_objects=int(draw("objects", *bounds)))


def _thread(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    """Let each worker use all cores; where it is immaterial, for operations too small to be divided."""
    numbers = recipe.sine_numbers if strength == "material" else SMALL_NUMBERS
    return replace(recipe, threads=cores(), sine_numbers=numbers)


def _pin(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    return replace(recipe, is_pinned=True)


def _computing(low: float, high: float) -> Change:
    """Return what makes samples compute so much that this share of all cores is busy at the device's pace."""

    def settle(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
        load = draw("load", low, high) if strength != "immaterial" else draw("load", 0.1, 0.2)
        burn_s = (load * cores() * recipe.device_s - recipe.host_s) / BATCH
        return replace(recipe, burn_s=max(1e-5, burn_s), num_workers=cores())

    return settle


def _launch(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    return replace(recipe, host_s=pressure(draw, strength, most=3.0) * recipe.device_s)


def _bind_device(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    return replace(recipe, device_s=draw("bound", 2.0, 4.0) * recipe.device_s)


def _read(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    volume = pressure(draw, strength, most=3.0) * recipe.device_s * STORAGE_BYTES_PER_S
    return replace(recipe, read_bytes=int(volume / BATCH), is_cold=True)


def _shorten(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    # As many batches from each worker, or drop_last would leave some out. An iterable's end hides behind queued steps.
    batches = int(draw("batches", 1, 2.9) if strength == "material" else draw("batches", 50, 100)) * recipe.num_workers
    return replace(recipe, length=batches * BATCH, is_iterable=draw("iterable", 1, 4) > 2)


def _spawn(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    if strength == "immaterial":
        return replace(recipe, is_spawned=True, is_persistent=True, length=LENGTH * 8)
    return replace(
        recipe,
        is_spawned=True,
        pickled_bytes=int(draw("pickled", 5e7, 2e8)),
        length=BATCH * int(draw("batches", 100, 200)),
    )


def _quota(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    used = (BATCH * recipe.burn_s + recipe.host_s) / recipe.device_s
    return replace(recipe, quota_cores=round(used / draw("pressure", 1.4, 2.2), 2) if strength == "material" else 1.5)


def _shrink(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    batch_bytes = BATCH * recipe.sample_bytes
    times = draw("batches", 1.2, 1.9) if strength == "material" else draw("batches", 40, 80)
    return replace(recipe, shm_bytes=int(times * batch_bytes))


def _working_host(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    """Give the host work for every batch that a queue of steps hides: at most eight tenths of what the device takes."""
    device_s = 0.4 * recipe.device_s
    part = draw("host", 0.01, 0.04) if strength == "immaterial" else draw("host", 0.15, 0.4)
    boxes = 2.5 * part * device_s / BOX_S / BATCH  # few lie in the caches, and cost less: some two times this share
    return replace(recipe, device_s=device_s, host_s=0.001, boxes=int(boxes))


def _wait_each_step(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    """Let the host wait for every step: its own work for a batch, hidden before, then adds to the step."""
    return replace(recipe, run_ahead=0)


def _repeat(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    return replace(recipe, repeat_ratio=1.0 if strength == "material" else draw("repeats", 0.01, 0.05))


def _burst(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    workers = 4 * cores()
    return replace(recipe, num_workers=workers, wait_s=pressure(draw, strength) * workers * recipe.device_s / BATCH)


def _stall(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    """Let one process prepare each batch for about as long again as the device takes: half busy, step after step."""
    times = draw("pressure", 1.8, 2.2) if strength == "material" else draw("pressure", 0.4, 0.8)
    return replace(recipe, num_workers=int(draw("workers", 1, 4)) % 2, wait_s=times * recipe.device_s / BATCH)


def _neighbour(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    return replace(recipe, neighbours=2 * cores() if strength == "material" else 1)


def _copy(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    part = share(draw, strength)
    return replace(recipe, copy_s=part / (1 - part) * recipe.device_s)


def _make_uneven(recipe: Recipe, draw: Draw, strength: Strength) -> Recipe:
    mean_s = 0.7 * recipe.num_workers * recipe.device_s / BATCH
    times = draw("uneven", 5.0, 7.5) if strength == "material" else draw("uneven", 1.1, 1.3)
    return replace(recipe, wait_s=mean_s, uneven=times, prefetch_factor=1)


FAULTS: dict[str, Fault] = {
    "wait_per_read": Fault(right=("loader-bound", "storage-bound"), inject=_wait),
    "cpu_burn": Fault(right=("cpu-saturated",), inject=_burn),
    "slow_samples": Fault(right=("slow-samples",), inject=_slow),
    "large_tensors": Fault(right=("cpu-saturated", "main-process-bound"), inject=_large),
    "many_objects": Fault(
        right=("main-process-bound",), inject=_many, settle=lambda r, d, s: replace(r, device_s=0.4 * r.device_s)
    ),
    "copy_on_write": Fault(right=("memory-growth",), inject=_grow, loss="memory"),
    "threads": Fault(
        right=("thread-oversubscription",),
        inject=_thread,
        settle=lambda r, d, s: replace(
            r, sines=3, sample_bytes=SMALL_BYTES, sine_numbers=int(d("numbers", 2**18, 2**19))
        ),
        budget_s=40.0,
    ),
    "pinned": Fault(right=("pinned-workers",), inject=_pin, settle=_computing(0.65, 0.75)),
    "launch": Fault(right=("launch-bound",), inject=_launch, by_construction=True),
    "device": Fault(right=("device-bound",), inject=_bind_device, by_construction=True, strengths=("material",)),
    "cold_cache": Fault(right=("storage-bound",), inject=_read),
    "tiny_epoch": Fault(
        right=("epoch-boundary",),
        inject=_shorten,
        settle=lambda r, d, s: r if r.sines else replace(r, device_s=0.4 * r.device_s),  # computing needs the time
    ),
    "spawn_heavy": Fault(right=("slow-start", "epoch-boundary"), inject=_spawn, budget_s=60.0),
    "quota": Fault(right=("cpu-quota",), inject=_quota, settle=_computing(0.5, 0.6), budget_s=40.0),
    "small_shm": Fault(
        right=("failure:shared memory",), inject=_shrink, settle=lambda r, d, s: replace(r, sample_bytes=262144)
    ),
    "item_each_step": Fault(
        right=("synchronising-step",),
        inject=_wait_each_step,
        settle=_working_host,
        by_construction=True,
    ),
    "repeated": Fault(right=("repeated-samples",), inject=_repeat, settle=lambda r, d, s: replace(r, is_iterable=True)),
    "bursts": Fault(right=("loader-bound", "jittery-gpu"), inject=_burst),
    "steady_stall": Fault(right=("loader-bound",), inject=_stall),
    "neighbour": Fault(right=("foreign-load",), inject=_neighbour, settle=_computing(0.8, 0.85)),
    "copy": Fault(right=("copy-bound",), inject=_copy, by_construction=True),
    "uneven": Fault(right=("shallow-prefetch",), inject=_make_uneven),
}
"""By name. `bursts` is the article's own case, jitter that more workers cure; in `uneven` the loader is fast enough on
average. A wait looks like storage from inside, and like idle cores from outside, so both names are right."""

PAIRS = (
    ("wait_per_read", "tiny_epoch"),
    ("copy_on_write", "wait_per_read"),
    ("repeated", "wait_per_read"),
    ("cold_cache", "copy_on_write"),
    ("threads", "tiny_epoch"),
    ("pinned", "copy_on_write"),
    ("copy", "tiny_epoch"),
    ("copy", "copy_on_write"),
)
"""Two faults at once, each of them material alone, whose costs add up. A slow loader and a slow device do not: the
slower of the two sets the pace, and removing the other wins nothing."""


def make(kinds: tuple[str, ...], seed: int, strength: Strength) -> Recipe:
    """Return the training with these faults injected; of an absent one, the same training without."""
    recipe = base(kinds, seed, strength)
    for kind in () if strength == "absent" else kinds:
        recipe = FAULTS[kind].inject(recipe, drawing(seed, kind), strength)
    return recipe


def base(kinds: tuple[str, ...], seed: int, strength: Strength) -> Recipe:
    """Return the same training without the faults."""
    device_s = drawing(seed, "+".join(kinds))("device", 0.03, 0.05)
    recipe = Recipe(device_s=device_s, host_s=0.05 * device_s)
    for kind in kinds:
        recipe = FAULTS[kind].settle(recipe, drawing(seed, kind), strength)
    return recipe
