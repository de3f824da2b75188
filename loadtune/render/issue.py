"""How is a verification told to strangers, in a text that fits an issue? Redacted, in Markdown, of bounded length."""

import re

import msgspec

from loadtune.records.verification import Verification
from loadtune.render.checks import compose_verdict
from loadtune.render.redaction import Identity, redact
from loadtune.render.saved import encode_report
from loadtune.render.verification import verification_lines
from loadtune.render.words import one_line

ISSUE_MAX_CHARS = 60_000
"""GitHub refuses the body of an issue beyond 65 536 characters; the rest is room for the reporter's own words."""
WIDTH = 100
LEFT_OUT = "(left out: too long for an issue)"


def render_issue(verification: Verification, identity: Identity) -> str:
    """Return a verification as Markdown, without what tells whose machine it was.

    Of every path the last part is left; the command, the files of the data set, GPUs' serial numbers, the raw trials
    and the duels' pairs are left out.
    """
    shown = redact(_without_evidence(verification), identity)
    told = "\n".join(verification_lines(shown, WIDTH))
    machine = "\n".join(_machine_lines(shown))
    record = encode_report(shown).decode()
    head = f"### loadtune verify: {one_line(compose_verdict(shown))}\n\n{_fenced(machine)}\n"
    body = head + _fenced(told) + "\n"
    details = f"<details><summary>Record</summary>\n\n{_fenced(record, 'json')}\n</details>\n"
    if len(body) + len(details) <= ISSUE_MAX_CHARS:
        return body + details
    if len(body) <= ISSUE_MAX_CHARS:
        return body
    room = ISSUE_MAX_CHARS - len(head) - len(_fenced(LEFT_OUT)) - 2
    return head + _fenced(told[: max(0, room)] + "\n" + LEFT_OUT) + "\n"


def _without_evidence(verification: Verification) -> Verification:
    asked, dataset, found = verification.request, verification.dataset, verification.environment
    folder, slash, _ = asked.dataset.rstrip("/").rpartition("/")
    if slash and not asked.dataset.startswith("/"):  # its folder alone may be any word, such as `data`
        folder = asked.dataset
    work = asked.workload
    work = msgspec.structs.replace(
        work,
        dataset_target=_last_part(work.dataset_target),
        model_target=_last_part(work.model_target),
        train_step_target=_last_part(work.train_step_target),
        stored=None,
    )
    gpus = tuple(msgspec.structs.replace(gpu, uuid="", mig_uuids=()) for gpu in found.gpus)
    name = _last_part(asked.dataset) or "data"
    slim = msgspec.structs.replace(
        verification,
        request=msgspec.structs.replace(asked, dataset=name, command=(), workload=work),
        environment=msgspec.structs.replace(found, gpus=gpus),
        dataset=None if dataset is None else msgspec.structs.replace(dataset, source=name, left_out=()),
        checks=tuple(msgspec.structs.replace(check, duels=(), trials=()) for check in verification.checks),
    )
    return redact(slim, Identity(home=folder, user="", host="")) if folder else slim


def _last_part(path: str | None) -> str | None:
    return None if path is None else path.rstrip("/").rpartition("/")[2]


def _machine_lines(verification: Verification) -> list[str]:
    """Return machine and versions, a line each."""
    found, limits = verification.environment, verification.environment.limits
    lines = [
        f"loadtune {verification.loadtune_version}, Python {found.python}",
        (
            f"{found.platform}, {found.cpu_model or 'processor not known'}, {limits.usable_cores:g} usable cores, "
            f"{limits.memory_limit_bytes / 2**30:.1f} GiB"
        ),
        *(f"{gpu.name}, driver {gpu.driver or 'not known'}" for gpu in found.gpus),
        ", ".join(f"{name} {version}" for name, version in sorted(found.versions.items())),
    ]
    return [one_line(line) for line in lines]


def _fenced(text: str, language: str = "") -> str:
    """Return a code block that nothing within can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"
