"""How often is the diagnosis right, by name and by consequence? Pure arithmetic over the rows that `diagnosis` saved.

On the same traces four rivals name a remedy. From NVML's utilisation alone: the article's two rules, at the thresholds
that suit seeds 0 to 9 best, and SageMaker Debugger's thresholds. From the shares of a step: the thresholds of TraceML
and of PyPI's package loadtune 0.3.0. A remedy stands for the rule whose remedy it is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, quantiles, stdev

from benchmarks.diagnosis_cures import BLAMING
from benchmarks.diagnosis_faults import FAULTS
from benchmarks.record import Criterion, Row

MATERIAL_RATIO = 0.1
"""Of the throughput: above it a fault is material, by what was measured and not by what was meant."""
FED_RATIO = 0.9
"""Share of the device's own rate that a healthy control reaches; below, something does limit it."""
RIGHT_MIN, RIGHT_LOW_MIN = 0.95, 0.9
"""Share of material single faults whose top finding is right, and the lower end of its 95 % interval."""
WANTED_FAULTS = 190
"""Material single faults for which these are meant: with fewer the lower end cannot be reached."""
KIND_MIN, KIND_ROWS_MIN = 0.7, 7
"""Right of each kind, and faults of a kind from which that is said of it."""
PAIRS_MIN = 0.8
ALARMS_MAX = 0.05
KEPT_RATIO, KEPT_MIN = 0.8, 0.9
"""Share of the best gain that removing the named cause must win, and in how many of the runs."""
SAGEMAKER_P95, SAGEMAKER_P5 = 0.7, 0.1
"""LowGPUUtilization of SageMaker Debugger: `threshold_p95` 70 and `threshold_p5` 10 per cent, by its documentation."""
PYPI_WAIT, PYPI_HEALTHY, PYPI_CPU = 0.2, 0.05, 0.85
"""loadtune 0.3.0 (PyPI), heuristic.py: INPUT_BOUND, HEALTHY and CPU_SATURATED, the last of all cores of the machine."""
TRACEML_SHARE = 0.1
"""TraceML 0.5.0: share of a step from which it warns of a phase."""
JITTERS, LOWS = tuple(n / 100 for n in range(1, 50)), tuple(n / 50 for n in range(15, 50))
"""Thresholds that the article's rules may choose from: finer than NVML's whole per cents would show."""
WORKERS, LARGER, LEAVE = "loader-bound", "launch-bound", "device-bound"
"""More workers, a larger batch, leave it: as the rules that ask for them."""
NOTHING, NO_ANSWER = "nothing", "no answer"
"""Said by a report without findings, and where there was no report at all: both are wrong of a fault."""
Ask = Callable[[Row], str]


def clopper_pearson(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson, Biometrika 26, 1934), by bisection.

    Its lower end is the share at which `count` or more of `of` has half of what is left of the confidence, its upper
    end the same for `count` or fewer.

    Raises:
        ValueError: Not a count out of a positive number.
    """
    if not 0 <= count <= of or of < 1:
        raise ValueError(f"{count} of {of} is no share")
    tail = (1.0 - confidence) / 2
    low = 0.0 if count == 0 else _solve(lambda share: 1.0 - _at_most(count - 1, of, share) - tail)
    high = 1.0 if count == of else _solve(lambda share: tail - _at_most(count, of, share))
    return low, high


def _solve(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):  # 2^-60 is below what a float tells apart
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2


def _at_most(count: int, of: int, share: float) -> float:
    """Return the probability of at most so many of a binomial."""
    return math.fsum(math.comb(of, k) * share**k * (1.0 - share) ** (of - k) for k in range(count + 1))


def is_run(row: Row) -> bool:
    """Say whether a row holds a measurement that nothing disturbed."""
    return row["not_run"] is None and not row["is_void"]


def is_single(row: Row) -> bool:
    """Say whether a row is a material single fault, as measured."""
    is_meant = len(row["kinds"]) == 1 and row["strength"] == "material"
    return is_run(row) and is_meant and row["cost"] is not None and row["cost"] > MATERIAL_RATIO


def is_pair(row: Row) -> bool:
    """Say whether a row is a pair of which each is material alone."""
    costs = [row["cost_alone"].get(kind) for kind in row["kinds"]]
    return is_run(row) and len(costs) > 1 and all(each is not None and each > MATERIAL_RATIO for each in costs)


def is_harmless(row: Row) -> bool:
    """Say whether a row is a healthy control that feeds its device, or an immaterial fault, as measured."""
    if not is_run(row) or row["strength"] == "material":
        return False
    if row["strength"] == "absent":
        return row["reached"] is not None and row["reached"] >= FED_RATIO
    return row["cost"] is not None and row["cost"] <= MATERIAL_RATIO


def top(row: Row) -> str:
    """Return the rule of the first finding."""
    return row["findings"][0][0] if row["findings"] else NOTHING


def right(row: Row) -> set[str]:
    """Return the rules that name what was injected; without anything material, nothing or the device is right."""
    if row["strength"] != "material":
        return {LEAVE, NOTHING}
    return {rule for kind in row["kinds"] for rule in FAULTS[kind].right}


def names_both(row: Row) -> bool:
    """Say whether a pair's two faults are both among the findings that say something is wrong, by different ones."""
    named = {rule for rule, severity in row["findings"] if severity != "info"}
    first, second = (named & set(FAULTS[kind].right) for kind in row["kinds"])
    return bool(first) and bool(second) and len(first | second) > 1


def alarms(row: Row) -> list[str]:
    """Return the findings that blame something, not merely tell of it."""
    told = [rule for rule, severity in row["findings"] if severity != "info"]
    return [rule for rule in told if rule in BLAMING or rule.startswith("failure:") or rule == NO_ANSWER]


def kept(row: Row, named: str) -> bool | None:
    """Say whether removing the cause that was named wins most of the best gain.

    None: no gain is known, or this cause was not removed, since the verdict on the finding stood without (`settles`).
    """
    gains = {rule: each for rule, each in row["gains"].items() if each is not None}
    best = max(gains.values(), default=0.0)
    if best <= 0.0 or FAULTS[row["kinds"][0]].loss != "throughput":
        return None
    if named not in gains and named in row.get("left_out", ()):
        return None
    return gains.get(named, 0.0) >= KEPT_RATIO * best


def settles(gains: dict[str, float | None], named: str, most: float) -> bool:
    """Say whether the gains so far decide `kept`, whatever the others are.

    Args:
        gains: Of the causes removed so far.
        named: The cause that was named.
        most: What no cause can win more than: the device's own rate by that of the fault, less 1.
    """
    known = {rule: each for rule, each in gains.items() if each is not None}
    own = known.get(named, 0.0)
    return own >= KEPT_RATIO * most or any(own < KEPT_RATIO * each for each in known.values())


def ask_sagemaker(row: Row) -> str:
    """Return what SageMaker's thresholds say of the trace."""
    if len(row["utilisation"]) < 2:
        return NOTHING
    cuts = quantiles(row["utilisation"], n=20, method="inclusive")
    if cuts[-1] < SAGEMAKER_P95:
        return LARGER
    return WORKERS if cuts[0] < SAGEMAKER_P5 else LEAVE


def ask_pypi(row: Row) -> str:
    """Return what loadtune 0.3.0 would say: a small wait is nudged at with workers too, a healthy loader left alone."""
    seen = row["seen"]
    if seen["wait"] is None:
        return NOTHING
    if seen["wait"] >= PYPI_WAIT and (seen["cpu"] or 0.0) >= PYPI_CPU:
        return "cpu-saturated"
    return LEAVE if seen["wait"] <= PYPI_HEALTHY else WORKERS


def ask_traceml(row: Row) -> str:
    """Return what TraceML would say: the larger of waiting and copying, where it is a tenth of a step."""
    if row["seen"]["wait"] is None:
        return NOTHING
    shares = {rule: row["seen"][name] or 0.0 for rule, name in ((WORKERS, "wait"), ("copy-bound", "copy"))}
    largest = max(shares, key=lambda rule: shares[rule])
    return largest if shares[largest] >= TRACEML_SHARE else LEAVE


def asking_article(jitter: float, low: float) -> Ask:
    """Return the article's rules at these thresholds: jittery, more workers; low and steady, a larger batch."""

    def ask(row: Row) -> str:
        if len(row["utilisation"]) < 2:
            return NOTHING
        if stdev(row["utilisation"]) > jitter:
            return WORKERS
        return LARGER if fmean(row["utilisation"]) < low else LEAVE

    return ask


def fit_article(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the thresholds, jitter and low, with which the article's rules are most often right on these rows."""
    seen = [row for row in rows if (is_single(row) or is_harmless(row)) and len(row["utilisation"]) > 1]
    judged = [(stdev(row["utilisation"]), fmean(row["utilisation"]), right(row)) for row in seen]

    def score(jitter: float, low: float) -> int:
        said = (WORKERS if sd > jitter else LARGER if mean < low else LEAVE for sd, mean, _ in judged)
        return sum(each in wanted for each, (_, _, wanted) in zip(said, judged, strict=True))

    return max(((jitter, low) for jitter in JITTERS for low in LOWS), key=lambda each: score(*each))


def block_of(row: Row) -> int:
    """Return the first of the ten seeds that a row belongs to; block 0 sets thresholds."""
    return row["seed"] // 10 * 10


def askers(rows: Sequence[Row]) -> dict[str, Ask]:
    """Return who is asked, by name: this tool and its rivals."""
    fitting = [row for row in rows if block_of(row) == 0] or list(rows)
    return {
        "loadtune": top,
        "article": asking_article(*fit_article(fitting)),
        "SageMaker": ask_sagemaker,
        "0.3.0": ask_pypi,
        "TraceML": ask_traceml,
    }


def judge(rows: Sequence[Row]) -> list[Criterion]:
    """Return what the last block that was run shows of the promises; block 0 alone promises nothing."""
    blocks = [block_of(row) for row in rows if block_of(row) > 0]
    own = [row for row in rows if blocks and block_of(row) == max(blocks)]
    singles, pairs, harmless = (list(filter(each, own)) for each in (is_single, is_pair, is_harmless))
    by_kind = {kind: [row for row in singles if row["kinds"] == [kind]] for kind in FAULTS}
    told = {kind: _share(rows, is_right) for kind, rows in by_kind.items() if len(rows) >= KIND_ROWS_MIN}
    least, lacking = min(told.values(), default=None), len(FAULTS) - len(told)
    is_one = len({row["rules"] for row in own}) < 2  # a block that met two sets of rules judges neither
    rights = sum(map(is_right, singles))
    low = clopper_pearson(rights, len(singles))[0] if singles else None
    consequences = [each for row in singles if (each := kept(row, top(row))) is not None]
    criteria = [
        _criterion("right top finding, material single faults", rights, len(singles), RIGHT_MIN),
        Criterion(
            "lower end of its 95 % interval",
            f"at least {RIGHT_LOW_MIN:g} ({len(singles)} faults, {WANTED_FAULTS} wanted)",
            low, low, None, None if low is None else low >= RIGHT_LOW_MIN,
        ),
        Criterion(
            "the same, of the kind that fares worst",
            f"at least {KIND_MIN:g} ({lacking} kinds have under {KIND_ROWS_MIN} material faults)", least, least, None,
            False if least is not None and least < KIND_MIN else None if lacking or least is None else True,
        ),
        _criterion("both named, pairs", sum(map(names_both, pairs)), len(pairs), PAIRS_MIN),
        _criterion("false alarms, healthy and immaterial", sum(map(bool, map(alarms, harmless))), len(harmless),
                   ALARMS_MAX, is_limit=True),
        _criterion("most of the best gain kept", sum(consequences), len(consequences), KEPT_MIN),
    ]  # fmt: skip
    return criteria if is_one else [replace(each, met=None) for each in criteria]


def is_right(row: Row) -> bool:
    """Say whether the top finding names what was injected."""
    return top(row) in right(row)


def _share(rows: Sequence[Row], holds: Callable[[Row], bool]) -> float:
    return sum(map(holds, rows)) / len(rows)


def _criterion(name: str, count: int, of: int, bound: float, *, is_limit: bool = False) -> Criterion:
    target = f"at {'most' if is_limit else 'least'} {bound:g} ({count} of {of})"
    if not of:
        return Criterion(name, target, None, None, None, None)
    low, high = clopper_pearson(count, of)
    is_met = count / of <= bound if is_limit else count / of >= bound
    return Criterion(name, target, count / of, low, high, is_met)
