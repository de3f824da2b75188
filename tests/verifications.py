"""Realistic verifications for the tests of everything that shows one."""

import msgspec

from loadtune.records.resources import Unavailable
from loadtune.records.settings import DeviceChoice
from loadtune.records.verification import Check, Figure, Outcome, Reading, Verification
from tests.examples import CPU, HOSTILE, NOT_UTF8, PROFILE, REORDERING, dataset, duel, environment, request, settings

YOURS = settings(4, 16)

READINGS = (
    Reading(name="cgroup limits", is_available=True),
    Reading(name="PSS", is_available=True),
    Reading(
        name="GPU utilisation (NVML)",
        is_available=False,
        reason="libnvidia-ml.so.1 was not found.",
        cost="nothing here: the replayed device tells its own busy time.",
        is_needed=False,
    ),
    Reading(
        name="pressure (PSI)",
        is_available=False,
        reason="/proc/pressure is not there: the kernel was built without CONFIG_PSI",
        cost="a machine that is short of memory is seen only by its swapping",
    ),
)

PLAIN_LOOP = Check(
    id="plain-loop",
    claim="A trial's rate is that of a plain training loop with the same setting.",
    target="within 3 % of the plain loop",
    measured="78.1 samples/s in the trial, 77.9 samples/s in the plain loop: 1.003x [0.988 1.018]",
    outcome=Outcome.HOLDS,
    figures=(
        Figure(quantity="trial by plain loop", value=1.003, unit="x", low=0.988, high=1.018),
        Figure(quantity="rate of the plain loop", value=77.9, unit="samples/s", low=76.8, high=79.0),
        Figure(quantity="memory of the plain loop", value=3.1 * 2**30, unit="bytes"),
    ),
    foreign_cores=0.21,
    steal_ratio=0.0,
    seconds_spent=41.5,
)
SAMPLER = Check(
    id="sampler",
    claim="Watching a trial does not slow it.",
    target="at most 1 % slower",
    measured="0.2 % slower, 0.02 cores used by the sampler",
    outcome=Outcome.HOLDS,
    figures=(Figure(quantity="slow-down", value=0.002, unit="ratio", low=-0.004, high=0.008),),
    seconds_spent=24.0,
)
SAME = Check(
    id="same-against-same",
    claim="A setting that is duelled against itself is never called faster.",
    target="the interval covers 1 and lies within 3 %",
    measured="3 duels: 1.012x, 0.996x and 1.041x; one interval does not cover 1",
    outcome=Outcome.FAILS,
    reason="the third interval lies above 1: [1.012 1.071]. Something drifted that the slices did not share.",
    figures=(Figure(quantity="duels whose interval covers 1", value=2.0, unit="of 3"),),
    foreign_cores=1.4,
    steal_ratio=0.06,
    seconds_spent=180.0,
    duels=(duel(1.004, 0.02, YOURS, YOURS), duel(1.041, 0.05, YOURS, YOURS)),
    notes=("The third duel ran while 1.4 cores were busy elsewhere.",),
)
DEVICE_MEMORY = Check(
    id="device-memory",
    claim="The peak of device memory is the one that the driver sees.",
    target="within 64 MiB",
    measured="not measured",
    outcome=Outcome.UNKNOWN,
    reason="a replayed device occupies no memory",
    figures=(Figure(quantity="difference", unit="bytes", reason="no device memory was used"),),
    seconds_spent=0.0,
)


def verification(*checks: Check, device: DeviceChoice | None = None, **other: object) -> Verification:
    """Return a complete verification with these checks."""
    asked = request() if device is None else request(device)
    command = tuple("verify" if word == "probe" else word for word in asked.command)
    fields: dict[str, object] = {
        "loadtune_version": "0.1.0",
        "created": "2026-11-24T09:30:00+00:00",
        "status": "complete",
        "request": msgspec.structs.replace(asked, command=command),
        "environment": environment(),
        "dataset": dataset(),
        "settings": YOURS,
        "checks": checks,
        "readings": READINGS,
        "seconds_spent": sum(check.seconds_spent for check in checks) + 6.1,
        "start_up_s": 3.1,
    }
    return Verification(**(fields | other))  # type: ignore[arg-type]


def holds() -> Verification:
    """Return one in which everything that was checked holds."""
    return verification(PLAIN_LOOP, SAMPLER)


def fails() -> Verification:
    """Return a claim of each outcome, on a restless machine."""
    restless = ("1.4 cores were busy elsewhere\nhint: end what else runs, and verify again",)
    return verification(PLAIN_LOOP, SAMPLER, SAME, DEVICE_MEMORY, warnings=restless)


def unknown() -> Verification:
    """Return one in which a claim could not be told on this CPU, asked for with --quick and before the data is read."""
    return verification(PLAIN_LOOP, DEVICE_MEMORY, device=CPU, is_quick=True, dataset=None)


def interrupted() -> Verification:
    """Return one that Ctrl-C ended after its first check."""
    return verification(PLAIN_LOOP, status="interrupted", readings=())


def empty() -> Verification:
    """Return one that has only begun."""
    return verification(status="running", readings=())


def hostile() -> Verification:
    """Return names and texts that try to act on the page or the terminal, and one that is not UTF-8."""
    check = Check(
        id=HOSTILE,
        claim=HOSTILE,
        target=REORDERING,
        measured=f"{HOSTILE}\nsecond line",
        outcome=Outcome.FAILS,
        reason=HOSTILE,
        figures=(
            Figure(quantity=HOSTILE, value=1.5, unit=HOSTILE),
            Figure(quantity=HOSTILE, value=1.5, unit="x", low=0.01, high=90.0),
        ),
        notes=(NOT_UTF8,),
    )
    made = verification(PLAIN_LOOP, check)
    asked = msgspec.structs.replace(
        made.request,
        command=("loadtune", "verify", "--dataset", HOSTILE),
        dataset=HOSTILE,
        device=DeviceChoice(kind="replay", profile=msgspec.structs.replace(PROFILE, name=HOSTILE)),
    )
    machine = msgspec.structs.replace(
        made.environment, platform=HOSTILE, unavailable=(Unavailable(reading="gpus", reason=HOSTILE),)
    )
    reading = Reading(name=HOSTILE, is_available=False, reason=REORDERING, cost=HOSTILE)
    return msgspec.structs.replace(
        made, request=asked, environment=machine, readings=(reading,), warnings=(HOSTILE,), dataset=None
    )


VERIFICATIONS = {
    "holds": holds,
    "fails": fails,
    "unknown": unknown,
    "interrupted": interrupted,
    "empty": empty,
    "hostile": hostile,
}
