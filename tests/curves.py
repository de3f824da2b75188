"""Hypothesis strategies for schedules."""

from hypothesis import strategies as st

from loadtune.schedule.curve import (
    Constant,
    Cosine,
    Curve,
    Exponential,
    InverseTime,
    MultiStepDecay,
    Piecewise,
    Plateau,
    Polynomial,
    Product,
    Sequential,
    StepDecay,
    Unit,
)

RATIOS = st.floats(0.001, 2)
SPANS = st.integers(1, 40) | st.floats(0.5, 40)


def units() -> st.SearchStrategy[Unit]:
    """Short epochs and small batches, so that a few hundred samples cross many borders."""
    return st.builds(
        Unit,
        name=st.sampled_from(["epoch", "iteration"]),
        samples=st.integers(1, 37),
        is_stepped=st.booleans(),
    )


def increasing(least: float, size: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[float, ...]]:
    """Return times, each later than the one before."""
    return size.flatmap(
        lambda count: st.lists(st.floats(max(least, 0.25), 30), min_size=count, max_size=count, unique=True)
    ).map(lambda times: tuple(sorted(times)))


@st.composite
def piecewise(draw: st.DrawFn) -> Piecewise:
    """Two to four points."""
    times = draw(increasing(0, st.integers(1, 3)))
    ratios = draw(st.lists(RATIOS, min_size=len(times) + 1, max_size=len(times) + 1))
    points = tuple(zip((0.0, *times), ratios, strict=True))
    return Piecewise(points=points, shape=draw(st.sampled_from(["linear", "cosine"])), unit=draw(units()))


def simple_curves() -> st.SearchStrategy[Curve]:
    """Every closed form that holds no other curve."""
    unit, gamma, k = units(), st.floats(0.05, 1), st.floats(0, 0.5)
    return st.one_of(
        st.builds(Constant, ratio=RATIOS),
        st.builds(StepDecay, every=SPANS, gamma=gamma, unit=unit),
        st.builds(MultiStepDecay, milestones=increasing(0, st.integers(0, 4)), gamma=gamma, unit=unit),
        st.builds(Exponential, k=k, unit=unit),
        st.builds(InverseTime, k=k, unit=unit),
        st.builds(Polynomial, total=SPANS, power=st.floats(0.3, 3), unit=unit),
        st.builds(Cosine, total=SPANS, floor=st.floats(0, 0.5), is_periodic=st.booleans(), unit=unit),
        piecewise(),
    )


@st.composite
def sequences(draw: st.DrawFn) -> Sequential:
    """Two or three curves, one after another."""
    milestones = draw(increasing(0, st.integers(1, 2)))
    count = len(milestones) + 1
    parts = draw(st.lists(simple_curves(), min_size=count, max_size=count))
    return Sequential(curves=tuple(parts), milestones=milestones, unit=draw(units()))


def curves() -> st.SearchStrategy[Curve]:
    """Every closed form, sequences and products too."""
    products = st.lists(simple_curves() | sequences(), min_size=1, max_size=3).map(
        lambda parts: Product(curves=tuple(parts))
    )
    return st.one_of(simple_curves(), sequences(), products)


def plateaus() -> st.SearchStrategy[Plateau]:
    """Impatient ones, so that a dozen metrics bring reductions."""
    return st.builds(
        Plateau,
        mode=st.sampled_from(["min", "max"]),
        factor=st.floats(0.1, 0.9),
        patience=st.integers(0, 3),
        threshold=st.sampled_from([0.0, 1e-4, 0.1]),
        threshold_mode=st.sampled_from(["rel", "abs"]),
        cooldown=st.integers(0, 2),
        floors=st.sampled_from([(0.0,), (0.05,)]),
        interval_samples=st.none() | st.integers(1, 5000),
        curve=curves(),
    )
