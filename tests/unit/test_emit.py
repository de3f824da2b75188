"""Settings for configuration files: each form is read back by its own reader, and nothing unproved is written."""

import ast
import json

import msgspec
import pytest
from torch.utils.data import DataLoader

from loadtune.advised import Advice
from loadtune.errors import UsageError
from loadtune.records.report import Report, Verdict
from loadtune.render.emit import FORMS, emit
from loadtune.render.pasting import compose_paste
from tests.examples import EXAMPLES

REPORTS = [pytest.param(make(), id=name) for name, make in EXAMPLES.items()]


def read(text: str, form: str) -> dict:
    """What a program gets to see."""
    if form == "json":
        return json.loads(text)
    if form == "python":
        assigned = {}
        for node in ast.parse(text).body:
            assert isinstance(node, ast.Assign)
            assigned[node.targets[0].id] = ast.literal_eval(node.value)
        return {"dataloader": assigned["dataloader_kwargs"], "learning_rate": assigned.get("learning_rate")}
    return pytest.importorskip("yaml").safe_load(text)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("report", REPORTS)
def test_every_form_says_the_same_and_a_loader_takes_it(report: Report, form: str) -> None:
    found = read(emit(report, form), form)
    kwargs = found["dataloader"]
    if form == "hydra":
        assert kwargs.pop("_target_") == "torch.utils.data.DataLoader"
    told = report.recommendation
    is_shown = told is not None and told.verdict is not Verdict.INCONCLUSIVE
    expected = told.settings if told is not None and is_shown else report.request.baseline
    assert kwargs == expected.dataloader_kwargs()
    assert found.get("learning_rate") == (None if told is None else told.learning_rate.rate)
    assert DataLoader([0] * 8, **kwargs).batch_size == expected.batch_size


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("axis", "line"),
    [
        ("batch_size: fixed by your batch_sampler (Grouped)", "batch_sampler=batch_sampler"),
        ("batch_size: your loader yields samples as they come (batch_size=None)", "batch_size=None"),
    ],
)
def test_what_the_loader_fixes_is_not_set_again(axis: str, line: str, form: str) -> None:
    """`batch_size=16` beside a batch_sampler is refused by torch, and stacks batches that are ready."""
    report = EXAMPLES["faster"]()
    changed = msgspec.structs.replace(report, dataset=msgspec.structs.replace(report.dataset, fixed_axes=(axis,)))
    kwargs = read(emit(changed, form), form)["dataloader"]
    assert kwargs.get("batch_size", "left out") == (None if "None" in line else "left out")
    assert f"DataLoader(dataset, {line}, num_workers=" in (compose_paste(changed) or "")
    assert ("batch_size" in Advice(changed).dataloader_kwargs) == ("None" in line)


@pytest.mark.parametrize("rate", [1e-05, 0.007, 3e-07, 1.5e-08, 100.0])
@pytest.mark.parametrize("form", FORMS)
def test_small_rates_stay_numbers(rate: float, form: str) -> None:
    """YAML 1.1 reads 1e-05 as text."""
    report = next(report for report in (make() for make in EXAMPLES.values()) if report.recommendation is not None)
    recommendation = report.recommendation
    assert recommendation is not None
    learning_rate = msgspec.structs.replace(recommendation.learning_rate, rate=rate)
    changed = msgspec.structs.replace(
        report, recommendation=msgspec.structs.replace(recommendation, learning_rate=learning_rate)
    )
    assert read(emit(changed, form), form)["learning_rate"] == rate


def test_what_is_claimed_stays_one_comment() -> None:
    """A reason with a line break must not end the comment."""
    for make in EXAMPLES.values():
        for form in ("python", "yaml", "hydra"):
            first, second, *_ = emit(make(), form).splitlines()
            assert first.startswith("# loadtune: ")
            assert second.startswith("data")


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(UsageError, match="--emit toml"):
        emit(next(iter(EXAMPLES.values()))(), "toml")
