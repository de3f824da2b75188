"""The noise scale of problems whose noise scale is known, its interval, and how far the batch may grow."""

from statistics import fmean, median

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from loadtune.errors import UsageError
from loadtune.schedule.batch_growth import (
    STEPS_MIN,
    GradientNorms,
    NoiseScaleEstimate,
    batch_growth,
    compute_progress,
    estimate_noise_scale,
    read_noise_scale,
)
from loadtune.stats import student_t_quantile

SEEDS = range(100)
"""Scored. The interval was chosen on seeds from 10,000 on."""


class LinearModel:
    """Least squares on Gaussian inputs, where the covariance of a sample's gradient is known in closed form.

    A sample is x ~ N(0, diag(spread)), y = x . truth + N(0, sigma^2), and its gradient x (x . delta - noise), with
    delta the error of the weights. By Isserlis' theorem E[x x' (x . delta)^2] = (delta' L delta) L + 2 L delta delta' L
    with L = diag(spread), so tr(Sigma) = (delta' L delta + sigma^2) tr(L) + |L delta|^2, and G = L delta.
    """

    def __init__(self, seed, size=20, sigma=1.0, distance=1.0):
        self.generator = np.random.default_rng(seed)
        self.spread = 1.0 / np.arange(1, size + 1)
        self.sigma = sigma
        direction = np.random.default_rng(seed + 5_000_000).normal(size=size)
        self.delta = distance * direction / np.linalg.norm(direction)

    def moments(self):
        """Return (tr(Sigma), |G|^2) at the weights as they are."""
        gradient = self.spread * self.delta
        energy = float(self.delta @ gradient)
        squared = float(gradient @ gradient)
        return (energy + self.sigma**2) * float(self.spread.sum()) + squared, squared

    def draw(self, batch, count):
        """Return the mean gradients of `count` micro-batches of `batch` samples: (count, size)."""
        x = self.generator.normal(size=(count, batch, len(self.spread))) * np.sqrt(self.spread)
        error = x @ self.delta - self.generator.normal(0.0, self.sigma, (count, batch))
        return (x * error[..., None]).mean(axis=1)

    def step(self, batch, count, rate=0.0):
        """Return the norms of one step, and move the weights by it."""
        gradients = self.draw(batch, count)
        mean = gradients.mean(axis=0)
        self.delta = self.delta - rate * mean
        return GradientNorms(
            small_squared=float((gradients**2).sum(axis=1).mean()),
            big_squared=float((mean**2).sum()),
            small_batch=batch,
            big_batch=batch * count,
        )


def observe(seed, steps, batch, count, rate=0.0, **problem):
    """Return the true noise scale over a run, mean over mean, and its estimate."""
    model = LinearModel(seed, **problem)
    traces, squares, norms = [], [], []
    for _ in range(steps):
        trace, squared = model.moments()
        traces.append(trace)
        squares.append(squared)
        norms.append(model.step(batch, count, rate))
    return fmean(traces) / fmean(squares), estimate_noise_scale(norms)


def test_the_closed_form_is_the_covariance_of_samples():
    """Of half a million of them."""
    model = LinearModel(3)
    samples = model.draw(1, 500_000)
    trace, squared = model.moments()
    assert samples.var(axis=0).sum() == pytest.approx(trace, rel=0.02)
    assert (samples.mean(axis=0) ** 2).sum() == pytest.approx(squared, rel=0.1)


PROBLEMS = {
    "weights at rest, 8 micro-batches of 8": {"steps": 64, "batch": 8, "count": 8},
    "weights at rest, 4 micro-batches of 4": {"steps": 256, "batch": 4, "count": 4},
    "weights at rest, few steps": {"steps": 16, "batch": 16, "count": 8},
    "two batch sizes of one GPU": {"steps": 200, "batch": 16, "count": 2},
    "single samples": {"steps": 100, "batch": 1, "count": 32},
    "training": {"steps": 200, "batch": 8, "count": 4, "rate": 0.02, "distance": 2.0},
    "training quickly": {"steps": 100, "batch": 8, "count": 4, "rate": 0.2, "distance": 4.0},
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_interval_holds_the_truth(name):
    """In at least 90 of 100 seeds, and no wider than 4 from end to end in the median."""
    held, ratios = 0, []
    for seed in SEEDS:
        truth, found = observe(seed, **PROBLEMS[name])
        held += (found.low or 0.0) <= truth <= (found.high or np.inf)
        ratios.append(np.inf if found.high is None or not found.low else found.high / found.low)
    assert held >= 90
    assert median(ratios) <= 4.0


def test_a_hidden_signal_gives_a_lower_bound_and_no_more():
    """Next to the optimum the gradient is noise: no upper end, the reason said, and the truth not excluded."""
    bounded = 0
    for seed in range(40):
        truth, found = observe(seed, steps=20, batch=2, count=2, distance=0.02)
        bounded += found.high is not None
        assert found.high is not None or found.reason is not None
        assert found.high is not None or found.low is None or found.low < truth
    assert bounded <= 4  # one in forty would be by chance on either side


NORMS = st.builds(
    GradientNorms,
    small_squared=st.floats(0.1, 10.0),
    big_squared=st.floats(0.01, 5.0),
    small_batch=st.just(4),
    big_batch=st.just(32),
)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e5), st.integers(1, 64), st.integers(2, 64))
def test_both_estimates_are_exact_for_exact_norms(squared, trace, small, times):
    """E|g_B|^2 = |G|^2 + tr(Sigma) / B, put in for both batches, gives back both."""
    big = small * times
    norms = GradientNorms(
        small_squared=squared + trace / small, big_squared=squared + trace / big, small_batch=small, big_batch=big
    )
    assert norms.noise == pytest.approx(trace)
    assert norms.signal == pytest.approx(squared, rel=1e-6, abs=1e-9 * trace)


@given(st.lists(NORMS, min_size=STEPS_MIN, max_size=40))
def test_the_ends_are_where_students_t_says_so(steps):
    """Fieller by its definition: at each end noise - R * signal is just told from 0; within, it is not."""
    found = estimate_noise_scale(steps)
    ends = [end for end in (found.low, found.high) if end is not None]
    critical = student_t_quantile(0.975, len(steps) - 1)

    def statistic(ratio):
        values = np.array([step.noise - ratio * step.signal for step in steps])
        spread = values.std(ddof=1)
        assume(spread > 1e-9)
        return abs(values.mean()) / spread * np.sqrt(len(values))

    for end in ends:
        assert statistic(end) == pytest.approx(critical, rel=1e-4)
    if found.samples is not None and len(ends) == 2:
        assert found.low <= found.samples <= found.high
        assert statistic((found.low * found.high) ** 0.5) <= critical


@given(st.lists(NORMS, min_size=STEPS_MIN, max_size=20), st.floats(0.01, 100.0), st.randoms())
def test_scale_and_order_do_not_matter(steps, factor, random):
    """A loss that is scaled, as GradScaler does, and steps in another order give the same noise scale."""
    scaled = [
        GradientNorms(
            small_squared=factor * step.small_squared,
            big_squared=factor * step.big_squared,
            small_batch=step.small_batch,
            big_batch=step.big_batch,
        )
        for step in steps
    ]
    random.shuffle(scaled)
    first, second = estimate_noise_scale(steps), estimate_noise_scale(scaled)
    assume(first.samples is not None and second.samples is not None)
    assert second.samples == pytest.approx(first.samples, rel=1e-6)


def test_too_few_steps_say_so():
    """And so do gradients of large and small batches that are alike."""
    one = GradientNorms(small_squared=1.0, big_squared=1.0, small_batch=1, big_batch=2)
    assert estimate_noise_scale([one] * (STEPS_MIN - 1)).reason == f"{STEPS_MIN - 1} steps, {STEPS_MIN} needed"
    assert "do not differ" in estimate_noise_scale([one] * STEPS_MIN).reason


@given(st.floats(1.0, 1e6), st.integers(1, 100_000))
def test_growth_stops_at_the_noise_scale(scale, base):
    """Never below the base, never beyond the noise scale, and at it twice the least samples and steps."""
    growth = batch_growth(scale, base)
    assert base <= growth.batch_size <= max(base, scale)
    assert growth.samples_ratio >= 1.0 >= growth.steps_ratio
    assert growth.samples_ratio <= 2.0 or growth.batch_size == base
    assert growth.samples_ratio == pytest.approx((growth.batch_size + scale) / (base + scale))


def test_growth_takes_the_low_end():
    """What is surely within the noise scale, and nothing where nothing is known."""
    assert NoiseScaleEstimate(samples=100.0, low=64.0, high=300.0).growth(16).batch_size == 64
    assert batch_growth(NoiseScaleEstimate(samples=None, low=50.0), 16).batch_size == 50
    assert batch_growth(NoiseScaleEstimate(samples=None), 16) is None
    assert "do not enlarge" in batch_growth(10.0, 16).detail
    for scale, base in ((0.0, 16), (10.0, 0)):
        with pytest.raises(ValueError, match="no growth"):
            batch_growth(scale, base)


def test_the_estimate_reads_as_a_sentence():
    """Figures, interval, steps, then what to keep in mind."""
    text = repr(NoiseScaleEstimate(samples=123.4, low=80.0, steps=64, reason="no upper bound", notes=("Mind this.",)))
    assert text.splitlines() == [
        "noise scale: 123 samples, 95 % interval [80 none], from 64 steps",
        "  no upper bound",
        "  Mind this.",
    ]


@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(0.1, 1e6), st.floats(0.1, 10))
def test_progress_is_the_rate_by_the_samples_and_its_interval_holds_it(base, new, scale, rate):
    """Between no noise at all, where every sample is worth as much as a step's, and endless noise."""
    told = NoiseScaleEstimate(samples=scale, low=scale / 2, high=scale * 3, is_lower_bound=False)
    found = compute_progress(told, base, new, rate)
    assert found.ratio == pytest.approx(rate * (base + scale) / (new + scale))
    assert found.samples_ratio == pytest.approx(rate / found.ratio)
    assert found.low * (1 - 1e-12) <= found.ratio <= found.high * (1 + 1e-12)
    ends = sorted([rate, rate * base / new])
    assert ends[0] * (1 - 1e-12) <= found.low
    assert found.high <= ends[1] * (1 + 1e-12)


def test_progress_is_at_least_that_at_a_lower_bound():
    """The low end of the bound's own interval is the surest."""
    bound = NoiseScaleEstimate(samples=100.0, low=50.0, high=200.0, is_lower_bound=True)
    found = compute_progress(bound, 10, 40, 2.0)
    assert found.is_at_least
    assert found.ratio == pytest.approx(2 * 60 / 90)
    assert (found.low, found.high) == (None, None)
    assert compute_progress(NoiseScaleEstimate(samples=None), 10, 40, 2.0) is None


def test_a_noise_scale_is_read_from_what_people_have():
    """A number is taken to be measured in training; anything else is named."""
    told = NoiseScaleEstimate(samples=3.0)
    assert read_noise_scale(told) is told
    assert read_noise_scale(3) == NoiseScaleEstimate(samples=3.0, is_lower_bound=False)
    for wrong in (0, -1.0, float("nan"), True, "3", None):
        with pytest.raises(UsageError, match="no noise scale"):
            read_noise_scale(wrong)
