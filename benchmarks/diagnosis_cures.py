"""What would a training be without the cause that a rule names? For `diagnosis`, which judges findings by that too."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.diagnosis_faults import cores
from benchmarks.diagnosis_recipe import LENGTH, Recipe

CURES: dict[str, Callable[[Recipe], Recipe]] = {
    "loader-bound": lambda r: replace(r, num_workers=max(4 * cores(), 4 * r.num_workers)),
    "jittery-gpu": lambda r: replace(r, num_workers=max(4 * cores(), 4 * r.num_workers)),
    "storage-bound": lambda r: replace(r, wait_s=0.0, read_bytes=0, is_cold=False),
    "cpu-saturated": lambda r: replace(r, burn_s=1e-5, sines=0, sample_bytes=min(r.sample_bytes, 4096)),
    "slow-samples": lambda r: replace(r, slow_s=0.0),
    "copy-bound": lambda r: replace(r, copy_s=0.0),
    "launch-bound": lambda r: replace(r, batch_size=4 * r.batch_size),
    "main-process-bound": lambda r: replace(r, boxes=0, sample_bytes=min(r.sample_bytes, 4096)),
    "epoch-boundary": lambda r: r if r.length >= LENGTH else replace(r, is_persistent=True, length=LENGTH),
    "slow-start": lambda r: replace(r, is_spawned=False, pickled_bytes=0),
    "shallow-prefetch": lambda r: replace(r, prefetch_factor=16 if r.num_workers else None),
    "thread-oversubscription": lambda r: replace(r, threads=None),
    "pinned-workers": lambda r: replace(r, is_pinned=False),
    "cpu-quota": lambda r: replace(r, quota_cores=None),
    "memory-growth": lambda r: replace(r, held_objects=0),
    "synchronising-step": lambda r: replace(r, run_ahead=2),
    "repeated-samples": lambda r: replace(r, repeat_ratio=0.0),
    "foreign-load": lambda r: replace(r, neighbours=0),
    "failure:shared memory": lambda r: replace(r, shm_bytes=None),
}
"""What removes the cause that a rule names, as far as a training here can have it. A faster device is left out: nobody
removes a device, so naming it gains nothing unless it is the fault (`DEVICE_CURE`)."""
DEVICE_CURE = ("device-bound", lambda r: replace(r, device_s=r.device_s / 2))
BLAMING = frozenset(CURES) | {
    "pin-pressure",
    "shared-gpu",
    "throttled-gpu",
    "small-batch-norm",
    "swap",
    "low-steady-gpu",
}
"""Rules that say something is wrong. device-bound says that nothing is: "stop, the loader is fine"."""


def cures(kinds: tuple[str, ...], recipe: Recipe) -> dict[str, Recipe]:
    """Return what each rule's cause removed would leave, for the rules whose cause is there."""
    known = {**CURES, DEVICE_CURE[0]: DEVICE_CURE[1]} if kinds == ("device",) else CURES
    changed = {rule: cure(recipe) for rule, cure in known.items()}
    return {rule: cured for rule, cured in changed.items() if cured != recipe}


def order(cured: dict[str, Recipe], first: Sequence[str]) -> list[tuple[str, Recipe]]:
    """Return rules and trainings, those that were named first."""
    known = [*dict.fromkeys(rule for rule in first if rule in cured)]
    return [(rule, cured[rule]) for rule in [*known, *(rule for rule in cured if rule not in known)]]
