"""How is a verification told to strangers, in a text that fits an issue? Redacted, in Markdown, of bounded length."""

import re

import msgspec

from loadtune.records.verification import Verification
from loadtune.render.checks import compose_verdict
from loadtune.render.redaction import Identity, redact
from loadtune.render.verification import verification_lines
from loadtune.render.words import one_line

ISSUE_MAX_CHARS = 60_000
"""GitHub refuses the body of an issue beyond 65 536 characters; the rest is room for the reporter's own words."""
WIDTH = 100
LEFT_OUT = "(left out: too long for an issue)"


def render_issue(verification: Verification, identity: Identity) -> str:
    """Return a verification as Markdown, without what tells whose machine it was.

    The data set is named by the last part of its path; the command, the names of files that were passed over, the raw
    trials and the duels' pairs are left out.
    """
    shown = redact(_without_evidence(verification), identity)
    told = "\n".join(verification_lines(shown, WIDTH))
    machine = "\n".join(_machine_lines(shown))
    record = msgspec.json.format(msgspec.json.encode(shown), indent=1).decode()
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
    name = verification.request.dataset.rstrip("/").rpartition("/")[2]
    dataset = verification.dataset
    return msgspec.structs.replace(
        verification,
        request=msgspec.structs.replace(verification.request, dataset=name or "data", command=()),
        dataset=None if dataset is None else msgspec.structs.replace(dataset, source=name or "data", left_out=()),
        checks=tuple(msgspec.structs.replace(check, duels=(), trials=()) for check in verification.checks),
    )


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
