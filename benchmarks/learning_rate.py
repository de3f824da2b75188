"""Does a rescaled run at a larger batch end where the base run ends?

    python -m benchmarks.learning_rate [--part digits|deeplab|all] [--limit SECONDS] [--show]

Real training of a small convolutional net with BatchNorm on scikit-learn's digits, with SGD and with AdamW:

- The base rate at B = 16 is tuned: five rates, three seeds of their own, the least mean loss.
- The gradient noise scale is measured in a base run of the tuning seeds, over its second half.
- Base run, 4 B and 16 B, twenty paired seeds: with nothing rescaled (the schedule in steps), with the rate rescaled
  alone, and with all that `loadtune.rescale` says (ours). "4B, ten times" our rate is a second control.
- At 4 B a curve over nine rates, ten of those seeds; all else as in ours.

The larger batches are accumulated from micro-batches of 16, as several GPUs would make them, so BatchNorm normalises
over 16 throughout. "4B, ours at once" lets it see all 64 and is described only: it trains another loss.

Equivalent is what two one-sided tests at 5 % find within one standard deviation between the base run's seeds. Judged
is the loss on digits that were not trained on. Batch size, epochs, net and judged loss were chosen on seeds that are
not scored, so that the controls can fail.

A small DeepLabv3+ on the demo's nuclei, three seeds with SGD, is described beside it and judged by nothing.

It goes on where an earlier run stopped. With --limit it begins nothing after that many seconds.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from benchmarks.learning_rate_runs import (
    Plan,
    digits,
    measure_noise_scale,
    nuclei,
    segmentation_net,
    small_net,
    train,
)
from benchmarks.learning_rate_scores import best_of_curve, equivalence, judge
from benchmarks.record import Row, has, load, measure, save, show, values
from loadtune.schedule.batch_growth import NoiseScaleEstimate
from loadtune.schedule.rescale import rescale
from loadtune.schedule.rescaled import Rescaled

BASE_BATCH = 16
EPOCHS = 12
"""With twenty the net learns the wrong labels by heart: the training loss falls, and the judged one does not."""
SEEDS = range(20)
TUNING_SEEDS = (1001, 1002, 1003)
NOISE_SEED = 1001
NOISE_BEGIN = 0.5
"""Share of a run before the noise scale is measured: earlier it is smaller, and would warn of too much."""
CURVE_SEEDS = range(10)
CURVE_RATIOS = tuple(2.0**power for power in range(-3, 6))
"""Rates of the curve by the base rate: chosen before our rate is known, on both sides of it."""
JUDGED = "test loss"

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "weight_decay": 1e-4},
    "AdamW": {"weight_decay": 1e-2},
}
TUNED = {"SGD": (0.025, 0.05, 0.1, 0.2, 0.4), "AdamW": (0.008, 0.016, 0.032, 0.064, 0.128)}
"""Rates that the base rate is chosen from, at B."""

DEEPLAB_SEEDS = range(3)
DEEPLAB_BATCH, DEEPLAB_EPOCHS, DEEPLAB_RATE = 4, 10, 0.01
"""With batches of 2, BatchNorm of the pooling branch sees two values, and nothing is learned in evaluation mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A named training, and what is said of it in its rows."""

    name: str
    plan: Plan
    seeds: range
    notes: Row


def main() -> None:
    """Train what is missing and fits into the limit, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=("digits", "deeplab", "all"), default="all")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which nothing more is begun")
    parser.add_argument("--show", action="store_true", help="train nothing")
    asked = parser.parse_args()
    ends_s = time.monotonic() + asked.limit
    record = load("learning_rate", seeds=[*SEEDS, *TUNING_SEEDS])
    if not asked.show:
        torch.set_num_threads(1)  # nets as small as these lose by more, and other work runs beside this
        if asked.part in {"digits", "all"}:
            for optimizer in OPTIMIZERS:
                run_digits(record, optimizer, ends_s)
        if asked.part in {"deeplab", "all"}:
            run_deeplab(record, ends_s)
    tell(record)


def run_digits(record: dict[str, Any], optimizer: str, ends_s: float) -> None:
    """Tune the base rate, measure the noise scale there, then train every variant with every seed."""
    for rate in TUNED[optimizer]:
        for seed in TUNING_SEEDS:
            plan = base_plan(optimizer, rate)
            keys = {"variant": f"{optimizer}, tuning {rate:g}", "optimizer": optimizer, "rate": rate, "seed": seed}
            note(record, keys, plan, ends_s)
    base_rate = tuned_rate(record, optimizer)
    if base_rate is None:
        return
    noise_scale = note_noise_scale(record, optimizer, base_rate, ends_s)
    if noise_scale is None:
        return
    variants = list(plan_variants(optimizer, base_rate, noise_scale))
    for seed in SEEDS:
        for variant in variants:
            if seed in variant.seeds:
                keys = {"variant": f"{optimizer}, {variant.name}", "optimizer": optimizer, "seed": seed}
                note(record, {**keys, "rate": variant.plan.hyperparameters["lr"]}, variant.plan, ends_s, variant.notes)


def base_plan(optimizer: str, rate: float) -> Plan:
    """Return the run whose rate is tuned."""
    hyperparameters = {"lr": rate, **OPTIMIZERS[optimizer]}
    return Plan(
        optimizer=optimizer,
        hyperparameters=hyperparameters,
        batch_size=BASE_BATCH,
        micro_batch_size=BASE_BATCH,
        schedule_batch_size=BASE_BATCH,
    )


def plan_variants(optimizer: str, base_rate: float, noise_scale: NoiseScaleEstimate) -> Iterator[Variant]:
    """Yield every training that is scored."""
    base = base_plan(optimizer, base_rate)
    yield Variant(name="base", plan=base, seeds=SEEDS, notes={"is_judged": True})
    for kappa in (4, 16):
        rescaled = rescale_base(base, BASE_BATCH, kappa, noise_scale)
        ours = ours_plan(base, BASE_BATCH, rescaled)
        notes: Row = {"is_judged": True, "warnings": list(rescaled.warnings), "warned": warns_of_noise(rescaled)}
        nothing = replace(base, batch_size=kappa * BASE_BATCH)
        rate_alone = {**base.hyperparameters, "lr": rescaled.groups[0]["lr"]}
        yield Variant(name=f"{kappa}B, nothing", plan=nothing, seeds=SEEDS, notes={"is_judged": True})
        yield Variant(
            name=f"{kappa}B, the rate",
            plan=replace(nothing, hyperparameters=rate_alone),
            seeds=SEEDS,
            notes={"is_judged": True},
        )
        yield Variant(name=f"{kappa}B, ours", plan=ours, seeds=SEEDS, notes=notes)
        if kappa == 4:
            whole = rescale_base(base, kappa * BASE_BATCH, 1, noise_scale)
            yield Variant(
                name="4B, ours at once",
                plan=ours_plan(base, kappa * BASE_BATCH, whole),
                seeds=SEEDS,
                notes={"is_judged": True, "warnings": list(whole.warnings)},
            )
            yield Variant(
                name="4B, ten times",
                plan=at_rate(ours, 10 * ours.hyperparameters["lr"]),
                seeds=SEEDS,
                notes={"is_judged": True},
            )
            for ratio in CURVE_RATIOS:
                yield Variant(
                    name=f"4B, curve {ratio:g}",
                    plan=at_rate(ours, ratio * base_rate),
                    seeds=CURVE_SEEDS,
                    notes={"is_judged": True, "is_curve": True},
                )


def rescale_base(base: Plan, micro_batch_size: int, steps: int, noise_scale: NoiseScaleEstimate) -> Rescaled:
    """Return what loadtune says of so many micro-batches of that size behind a step."""
    return rescale(
        base.optimizer,
        BASE_BATCH,
        micro_batch_size,
        accumulation_steps=steps,
        batch_norm_momentum=base.batch_norm_momentum,
        sample_count=len(digits().labels),
        epochs=EPOCHS,
        noise_scale=noise_scale,
        **base.hyperparameters,
    )


def ours_plan(base: Plan, micro_batch_size: int, rescaled: Rescaled) -> Plan:
    """Return the run with everything rescaled; the schedule stays as a function of samples seen."""
    return replace(
        base,
        hyperparameters=dict(rescaled.groups[0]),
        batch_size=rescaled.batch_size,
        micro_batch_size=micro_batch_size,
        schedule_batch_size=rescaled.batch_size,
        warm_up=rescaled.warm_up,
        batch_norm_momentum=rescaled.batch_norm_momentum or base.batch_norm_momentum,
    )


def at_rate(plan: Plan, rate: float) -> Plan:
    """Return the same run at another rate."""
    return replace(plan, hyperparameters={**plan.hyperparameters, "lr": rate})


def warns_of_noise(rescaled: Rescaled) -> bool:
    """Say whether loadtune warned that as many epochs would train less, or that its rule ends."""
    return any("noise scale" in warning or "the rule ends" in warning for warning in rescaled.warnings)


def note(record: dict[str, Any], keys: Row, plan: Plan, ends_s: float, notes: Row | None = None) -> None:
    """Train on the digits, unless it was done or time is up, and add a row for each loss."""
    if has(record, **keys) or time.monotonic() > ends_s:
        return
    count = len(record["rows"])
    with measure(record, **keys) as measured:
        for quantity, loss in train(small_net, digits(), plan, EPOCHS, keys["seed"]).items():
            measured.add(quantity, loss, "nats")
    for row in record["rows"][count:]:
        row.update(notes or {})
        row["is_judged"] = bool(row.get("is_judged")) and row["quantity"] == JUDGED
    save(record, judge(record, tuple(OPTIMIZERS), len(SEEDS)))


def tuned_rate(record: dict[str, Any], optimizer: str) -> float | None:
    """Return the rate of the least mean loss; None: not every rate was tried."""
    means = {}
    for rate in TUNED[optimizer]:
        found = values(record, variant=f"{optimizer}, tuning {rate:g}", quantity=JUDGED)
        if len(found) == len(TUNING_SEEDS):
            means[rate] = fmean(found)
    return min(means, key=lambda rate: means[rate]) if means else None


def note_noise_scale(
    record: dict[str, Any], optimizer: str, base_rate: float, ends_s: float
) -> NoiseScaleEstimate | None:
    """Return the noise scale of a base run, measured once and kept in a row; None: time is up."""
    keys = {"variant": f"{optimizer}, noise scale", "optimizer": optimizer, "rate": base_rate, "seed": NOISE_SEED}
    row = next((row for row in record["rows"] if keys.items() <= row.items()), None)
    if row is None:
        if time.monotonic() > ends_s:
            return None
        plan = base_plan(optimizer, base_rate)
        with measure(record, **keys) as measured:
            noise = measure_noise_scale(small_net, digits(), plan, EPOCHS, NOISE_SEED, NOISE_BEGIN)
            found = noise.estimate()
            measured.add("noise scale", found.samples, "samples")
        row = record["rows"][-1]
        row |= {"low": found.low, "high": found.high, "reason": found.reason, "steps": found.steps}
        save(record)
    return NoiseScaleEstimate(
        samples=row["value"],
        low=row["low"],
        high=row["high"],
        reason=row["reason"],
        steps=row["steps"],
        is_lower_bound=False,
    )


def run_deeplab(record: dict[str, Any], ends_s: float) -> None:
    """Train DeepLabv3+ with SGD at its base batch, and at four times that with nothing and with everything rescaled."""
    samples = nuclei()
    hyperparameters = {"lr": DEEPLAB_RATE, **OPTIMIZERS["SGD"]}
    base = Plan(
        optimizer="SGD",
        hyperparameters=hyperparameters,
        batch_size=DEEPLAB_BATCH,
        micro_batch_size=DEEPLAB_BATCH,
        schedule_batch_size=DEEPLAB_BATCH,
    )
    rescaled = rescale(
        "SGD",
        DEEPLAB_BATCH,
        DEEPLAB_BATCH,
        accumulation_steps=4,
        sample_count=len(samples.labels),
        epochs=DEEPLAB_EPOCHS,
        **hyperparameters,
    )
    plans = {
        "base": base,
        "4B, nothing": replace(base, batch_size=4 * DEEPLAB_BATCH),
        "4B, ours": ours_plan(base, DEEPLAB_BATCH, rescaled),
    }
    for seed in DEEPLAB_SEEDS:
        for name, plan in plans.items():
            keys = {"variant": f"DeepLabv3+, {name}", "rate": plan.hyperparameters["lr"], "seed": seed}
            if has(record, **keys) or time.monotonic() > ends_s:
                continue
            with measure(record, **keys) as measured:
                losses = train(segmentation_net, samples, plan, DEEPLAB_EPOCHS, seed)
                measured.add("training loss", losses["training loss"], "nats")
            save(record, judge(record, tuple(OPTIMIZERS), len(SEEDS)))


def tell(record: dict[str, Any]) -> None:
    """Print each variant against the base run, then medians and criteria."""
    for optimizer in OPTIMIZERS:
        print(
            f"{optimizer}: base rate {tuned_rate(record, optimizer)}, curve's best {best_of_curve(record, optimizer)}"
        )
        told = [f"{times}B, {what}" for times in (4, 16) for what in ("nothing", "the rate", "ours")]
        for variant in (*told, "4B, ours at once", "4B, ten times"):
            found = equivalence(record, optimizer, variant)
            if found is not None and found.difference_sds is not None:
                said = "equivalent" if found.is_equivalent else "not equivalent"
                print(
                    f"  {variant:28}{found.difference_sds:+8.2f} sd [{found.low_sds:+.2f} {found.high_sds:+.2f}] "
                    f"{said}, {found.pairs} seeds"
                )
    show(record, judge(record, tuple(OPTIMIZERS), len(SEEDS)))


if __name__ == "__main__":
    main()
