"""The analytic model: its limits, its monotony, and how measurements correct it."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.advice.pipeline import (
    DeviceLine,
    Pipeline,
    fit_device,
    interpolate,
    machine_repair_rate_per_s,
)
from loadtune.records.settings import Settings

SECONDS = st.floats(1e-5, 1.0)


def point(workers: int, batch: int = 8, **fields) -> Settings:
    return Settings(num_workers=workers, batch_size=batch, **fields)


def simulate_repair(workers: int, io_s: float, cpu_s: float, cores: int, seed: int) -> float:
    """Exponential waits and computing, first come first served: what the formula is exact for."""
    rng = random.Random(seed)
    ready = sorted(rng.expovariate(1 / io_s) for _ in range(workers))
    free = [0.0] * cores
    done = 0
    while ready[0] < 4000 * (io_s + cpu_s):
        arrival = ready.pop(0)
        core = min(range(cores), key=free.__getitem__)
        free[core] = max(free[core], arrival) + rng.expovariate(1 / cpu_s)
        done += 1
        ready.append(free[core] + rng.expovariate(1 / io_s))
        ready.sort()
    return done / (4000 * (io_s + cpu_s))


@pytest.mark.parametrize(("workers", "io_s", "cpu_s", "cores"), [(4, 3.0, 1.0, 2), (8, 3.0, 1.0, 2), (3, 1.0, 1.0, 1)])
def test_machine_repair_agrees_with_a_simulation(workers, io_s, cpu_s, cores):
    simulated = simulate_repair(workers, io_s, cpu_s, cores, seed=1)
    assert machine_repair_rate_per_s(workers, io_s, cpu_s, cores) == pytest.approx(simulated, rel=0.05)


@given(st.integers(1, 300), SECONDS, SECONDS, st.floats(0.5, 64))
def test_machine_repair_keeps_its_bounds(workers, io_s, cpu_s, cores):
    """Never above what the workers, or the cores, could do alone; and more workers never do less."""
    rate = machine_repair_rate_per_s(workers, io_s, cpu_s, cores)
    assert 0 < rate <= min(workers / (io_s + cpu_s / min(1.0, cores)), cores / cpu_s) * (1 + 1e-9)
    assert machine_repair_rate_per_s(workers + 1, io_s, cpu_s, cores) >= rate * (1 - 1e-9)


def test_pure_waiting_and_pure_computing_are_its_ends():
    assert machine_repair_rate_per_s(4, 0.5, 0.0, 2) == 8.0
    assert machine_repair_rate_per_s(4, 0.0, 0.5, 2) == 4.0
    assert machine_repair_rate_per_s(1, 0.0, 0.5, 2) == 2.0


@given(
    SECONDS,
    st.sampled_from([0.0, 1e-6, 0.1, 0.5, 1.0]),
    st.sampled_from([0.0, 1e-6, 1e-4, 1e-3]),
    st.integers(0, 64),
    st.integers(1, 64),
)
def test_a_prediction_never_exceeds_device_nor_cores(wall_s, share, main_s, workers, batch):
    line = DeviceLine(fixed_s=0.01, per_sample_s=0.001)
    model = Pipeline(
        cores=4, worker_wall_s=wall_s, worker_cpu_s=share * wall_s, main_cpu_s=main_s, variation=0.7, device=line
    )
    rate = model.predict(point(workers, batch))
    assert 0 < rate <= line.rate_per_s(batch) * (1 + 1e-9)
    if workers and share:
        assert rate <= 4 / (share * wall_s) * (1 + 1e-6)
    if main_s:
        assert rate <= 1 / main_s * (1 + 1e-6)


def test_the_main_process_takes_its_cores_first():
    """Decoding at 5 ms on 2 cores gives 400 a second; a main process of 1 ms a sample leaves 2 / 6 ms."""
    model = Pipeline(cores=2, worker_wall_s=0.005, worker_cpu_s=0.005, main_cpu_s=0.001)
    assert model.predict(point(8)) == pytest.approx(2 / 0.006, rel=1e-3)


def test_a_finite_buffer_costs_only_where_times_vary():
    line = DeviceLine(fixed_s=0.0, per_sample_s=0.01)
    steady = Pipeline(cores=8, worker_wall_s=0.02, worker_cpu_s=0.0, device=line)
    varied = Pipeline(cores=8, worker_wall_s=0.02, worker_cpu_s=0.0, variation=1.0, device=line)
    assert steady.predict(point(2)) == pytest.approx(100.0)
    assert varied.predict(point(2)) < 90.0
    deep = varied.predict(point(2, prefetch_factor=16))
    assert varied.predict(point(2)) < deep < 100.0


def test_without_workers_preparing_and_stepping_overlap_on_a_device():
    line = DeviceLine(fixed_s=0.0, per_sample_s=0.01)
    assert Pipeline(cores=2, worker_wall_s=0.02, worker_cpu_s=0.02, device=line).predict(point(0)) == pytest.approx(50)
    assert Pipeline(cores=2, worker_wall_s=0.002, worker_cpu_s=0.0, device=line).predict(point(0)) == pytest.approx(100)


@given(st.dictionaries(st.integers(1, 512), st.floats(1e-4, 10), min_size=1, max_size=5))
def test_a_fitted_device_never_gives_time_back(points):
    line = fit_device(points)
    assert line.fixed_s >= -1e-12
    assert line.per_sample_s >= 0
    assert sum(map(line.step_s, points)) == pytest.approx(sum(points.values()), rel=1e-6)


def test_a_line_is_found_again_and_nothing_is_refused():
    line = fit_device({8: 0.01 + 0.08, 16: 0.01 + 0.16, 32: 0.01 + 0.32})
    assert (line.fixed_s, line.per_sample_s) == pytest.approx((0.01, 0.01))
    assert fit_device({8: 0.08}).rate_per_s(16) == pytest.approx(100.0)
    with pytest.raises(ValueError, match="at least one"):
        fit_device({})


@given(st.dictionaries(st.integers(0, 64), st.floats(1, 1000), min_size=1, max_size=6))
def test_a_corrected_model_agrees_with_what_was_measured(measured):
    model = Pipeline(cores=2, worker_wall_s=0.01, worker_cpu_s=0.005).corrected(measured)
    for workers, rate in measured.items():
        assert model.loader_rate_per_s(workers) == pytest.approx(rate, rel=1e-6)


def test_corrections_are_carried_to_neighbours_but_not_to_0_workers():
    assert interpolate({1: 2.0, 7: 4.0}, 3) == pytest.approx(3.0)
    assert interpolate({1: 2.0, 7: 4.0}, 64) == 4.0
    assert interpolate({7: 4.0}, 2) == 4.0
    assert interpolate({7: 4.0}, 0) == 1.0
    assert interpolate({0: 4.0}, 2) == 1.0
    assert math.isclose(interpolate({}, 5), 1.0)
