"""How are the recommended settings written into a configuration file? As Python, YAML, Hydra's YAML, or JSON.

What is emitted is whole and valid by itself: settings as `torch.utils.data.DataLoader` takes them, the learning rate
where one is known, the torch threads of the main process where they are part of what was measured, and in comments
(in JSON: fields) what the claim is.
"""

import json
from typing import Any, Literal, get_args

from loadtune.errors import UsageError
from loadtune.records.report import Report, Verdict
from loadtune.render.answer import compose_speedup
from loadtune.render.pasting import compose_kwargs
from loadtune.render.words import measured_threads, one_line

Form = Literal["python", "yaml", "hydra", "json"]
FORMS: tuple[str, ...] = get_args(Form)
THREADS_COMMENT = "# for the main process: torch.set_num_threads(main_threads)"
"""No argument of a DataLoader, so it stands beside its settings; none of the readers would know what to do with it."""


def check_form(form: str | None) -> None:
    """Refuse a form that there is not.

    Raises:
        UsageError: It is none of `FORMS`.
    """
    if form is not None and form not in FORMS:
        raise UsageError(f"--emit {form} is unknown", f"give one of: {', '.join(FORMS)}")


def emit(report: Report, form: str) -> str:
    """Return the settings to use in one of `FORMS`, ending in a newline.

    They are the recommendation's where that is FASTER or SAME, or what is run today cannot run; else the baseline's: a
    configuration file should hold nothing that was not shown to be as good as what is run today.

    Raises:
        UsageError: There is no such form.
    """
    check_form(form)
    told = report.recommendation
    is_shown = told is not None and not (told.verdict is Verdict.INCONCLUSIVE and told.baseline.failure is None)
    settings = told.settings if told is not None and is_shown else report.request.baseline
    kwargs = compose_kwargs(report.dataset.fixed_axes, settings)
    rate = None if told is None else told.learning_rate.rate
    threads = measured_threads(settings, report.trials if is_shown else ())
    claim = "nothing was measured" if told is None else one_line(compose_speedup(told))
    if told is not None and not is_shown:
        claim = f"what is run today; the candidate was not shown to be faster: {claim}"
    if form == "json":
        content = {
            "dataloader": kwargs,
            "learning_rate": rate,
            "main_threads": threads,
            "verdict": None if told is None else told.verdict.value,
            "claim": claim,
        }
        return json.dumps(content, indent=2) + "\n"
    lines = [f"# loadtune: {claim}"]
    if form == "python":
        lines.append(f"dataloader_kwargs = {kwargs!r}")
        lines += [] if rate is None else [f"learning_rate = {rate!r}"]
        lines += [] if threads is None else [f"main_threads = {threads}  {THREADS_COMMENT}"]
    else:
        lines += ["dataloader:", *(["  _target_: torch.utils.data.DataLoader"] if form == "hydra" else [])]
        lines += [f"  {name}: {_scalar(value)}" for name, value in kwargs.items()]
        lines += [] if rate is None else [f"learning_rate: {_scalar(rate)}"]
        lines += [] if threads is None else [f"main_threads: {threads}  {THREADS_COMMENT}"]
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """Return a number or truth value as YAML and JSON agree to write it; 1e-05 would be text in YAML 1.1."""
    text = json.dumps(value)
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text
