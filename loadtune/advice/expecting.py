"""What does a search expect of a setting, by the model and by what was measured so far?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from loadtune.advice.case import main_work_cores, main_work_s, used_cores
from loadtune.advice.pipeline import Pipeline, fit_device
from loadtune.advice.search import Ledger, Leg, is_end_to_end, with_axes
from loadtune.records.measurement import Measurement, TrialResult
from loadtune.records.settings import Settings

BEST_RATIO = 0.99
"""Share of the best expected rate that is aimed at. At the tie rule's 0.97 a cheaper tie of it would be 0.94."""
LOADER_BOUND_RATIO = 0.9
"""Share of the device's rate up to which an end-to-end rate is the loader's own; beyond, the device holds it up."""


@dataclass(slots=True)
class Expectations:
    """Builds the model of a search from its ledger, anew after each result.

    Attributes:
        predicted: What was expected of each setting just before it was measured, in samples a second.
        pruned: What was expected of a setting that was left out, and why it was.
    """

    ledger: Ledger
    baseline: Settings
    cores: float
    _models: dict[tuple[int, int], Pipeline | None] = field(default_factory=dict)
    """By results so far and batch size: the same question is asked for every setting of the ladder."""
    predicted: dict[Settings, float] = field(default_factory=dict)
    pruned: dict[Settings, tuple[float, str]] = field(default_factory=dict)

    def model(self, batch_size: int) -> Pipeline | None:
        """Return the model; None until a worker's cost is known."""
        key = len(self.ledger.results), batch_size
        if key not in self._models:
            self._models = {key: self._build(batch_size)}
        return self._models[key]

    def _build(self, batch_size: int) -> Pipeline | None:
        alone = next((trial for trial, m in self._measured() if trial.consume == "nothing" and m.worker), None)
        cost = None if alone is None or alone.measurement is None else alone.measurement.worker
        if alone is None or cost is None:
            return None
        # Timed from within where it can be: from batch to batch a worker also waits for a main process that is late.
        busy_s = None if cost.times is None else cost.times.busy_s_per_sample
        wall_s = busy_s or cost.wall_s_per_sample or cost.cpu_s_per_sample
        steps = self._step_s()
        work_s = main_work_s(self.ledger.results)
        main = [
            min(measured.main_cpu_s_per_sample, work_s)
            for trial, measured in self._measured()
            if is_end_to_end(trial) and trial.settings.num_workers and measured.main_cpu_s_per_sample is not None
        ]
        plain = Pipeline(
            cores=self.cores,
            worker_wall_s=wall_s,
            worker_cpu_s=min(cost.cpu_s_per_sample, wall_s),
            main_cpu_s=median(main) if main else 0.0,
            taking_cpu_s=(alone.measurement.main_cpu_s_per_sample or 0.0) if alone.measurement is not None else 0.0,
            variation=cost.wall_spread_ratio or 0.0,
            device=fit_device(steps) if steps else None,
        )
        # The loader alone is a measured rate too: a correction far up the ladder must not reach down to it.
        own = {alone.settings.num_workers: alone.rate_per_s or 0.0}
        return plain.corrected(own | self._loader_rates(plain, batch_size))

    def rate_per_s(self, num_workers: int, batch_size: int) -> float | None:
        """Return what is expected of a worker count; None without a model."""
        model = self.model(batch_size)
        return None if model is None else model.predict(self._point(num_workers, batch_size))

    def cheapest(self, counts: Sequence[int], batch_size: int) -> int | None:
        """Return the fewest workers expected to do nearly as well as any of these counts."""
        model = self.model(batch_size)
        if model is None or not counts:
            return None
        rates = {count: model.predict(self._point(count, batch_size)) for count in counts}
        return min(count for count, rate in rates.items() if rate >= BEST_RATIO * max(rates.values()))

    def device_rate_per_s(self, batch_size: int) -> float | None:
        """Return the device's own rate as measured at this batch size, copies counted in; None where it was not."""
        step_s = self._step_s().get(batch_size)
        return None if not step_s else batch_size / step_s

    def used_cores(self, settings: Settings) -> float | None:
        """Return the cores that a setting's last trial used; None where that was not read."""
        trial = self._last(settings)
        return None if trial is None else used_cores(trial)

    def main_cores(self, settings: Settings) -> float | None:
        """Return the cores that its main process worked on; None where that was not read."""
        trial = self._last(settings)
        return None if trial is None else main_work_cores(trial, self.ledger.results)

    def note_prediction(self, leg: Leg) -> None:
        """Keep what is expected of a leg that is about to run, for the report."""
        if leg.feed != "loader" or leg.consume != "device" or leg.settings in self.predicted:
            return
        expected = self.rate_per_s(leg.settings.num_workers, leg.settings.batch_size)
        if expected is not None:
            self.predicted[leg.settings] = expected
        self.pruned.pop(leg.settings, None)

    def prune(self, settings: Settings, best_rate: float) -> None:
        """Keep that a setting was left out, and why."""
        expected = self.rate_per_s(settings.num_workers, settings.batch_size)
        if expected is not None and settings not in self.predicted:
            self.pruned[settings] = expected, f"expected at {expected / best_rate:.0%} of the best"

    def _point(self, num_workers: int, batch_size: int) -> Settings:
        return with_axes(self.baseline, num_workers, batch_size)

    def _measured(self) -> list[tuple[TrialResult, Measurement]]:
        return [(each, each.measurement) for each in self.ledger.results if each.measurement is not None]

    def _last(self, settings: Settings) -> TrialResult | None:
        own = [each for each in self.ledger.results if each.settings == settings and is_end_to_end(each)]
        return own[-1] if own else None

    def _step_s(self) -> dict[int, float]:
        """Return the seconds of a step by batch size: on a resident batch, and the copy that a fed one needs before it.

        Copy and step share a stream, so that neither runs beside the other.
        """
        copies = [
            measured.copy_s / trial.settings.batch_size
            for trial, measured in self._measured()
            if is_end_to_end(trial) and measured.copy_s is not None
        ]
        copy_s = median(copies) if copies else 0.0
        return {
            each.settings.batch_size: each.settings.batch_size * (1.0 / each.rate_per_s + copy_s)
            for each in self.ledger.results
            if each.feed == "resident" and each.rate_per_s
        }

    def _loader_rates(self, plain: Pipeline, batch_size: int) -> dict[int, float]:
        """Return by worker count what the loader delivered, where it and not the device set the pace.

        Where the device did, the loader delivers at least that: it counts where the model expects less.
        """
        device = self.device_rate_per_s(batch_size)
        found: dict[int, float] = {}
        for settings, rate in self.ledger.rates().items():
            is_held_up = device is not None and rate > LOADER_BOUND_RATIO * device
            if settings.batch_size == batch_size and (
                not is_held_up or plain.loader_rate_per_s(settings.num_workers) < rate
            ):
                found[settings.num_workers] = rate
        return found
