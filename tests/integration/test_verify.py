"""Does `loadtune verify` tell what holds, on a replayed device and a small data set? The command itself, once."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest

from loadtune.monitor.host import read_limits
from loadtune.monitor.nvml import Nvml
from loadtune.records.measurement import Cause
from loadtune.records.settings import DeviceChoice
from loadtune.records.verification import Outcome
from loadtune.render.saved import verification_schema
from loadtune.verifying import mishaps
from loadtune.verifying.bench import Bench
from tests.integration.conftest import replay

ROOT = Path(__file__).resolve().parents[2]
MISHAP_IDS = ["killed-worker", "host-memory", "device-memory"]


def loadtune(*words, **options):
    command = [sys.executable, "-m", "loadtune", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200, **options)


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """One quick verification of a replayed device."""
    out = tmp_path_factory.mktemp("verified")
    words = [
        "verify",
        "--quick",
        "--dataset",
        "demo/nuclei",
        "--step-time",
        "0.04",
        "--batch-size",
        "8",
        "--crop",
        "65",
    ]
    began_s = time.monotonic()
    done = loadtune(*words, "--out", str(out))
    return done, out, time.monotonic() - began_s


def test_every_claim_is_told_and_none_fails(verified):
    """On a machine as noisy as ours a comparison may be untold; a mishap never is."""
    done, out, _ = verified
    assert done.returncode in {0, 11}, done.stderr
    saved = json.loads((out / "verification.json").read_text())
    outcomes = {check["id"]: check["outcome"] for check in saved["checks"]}
    assert list(outcomes) == [*MISHAP_IDS, "plain-loop", "same-against-same", "quiet-machine"]
    assert {outcomes[name] for name in MISHAP_IDS} == {"holds"}
    assert "does not hold" not in outcomes.values()
    assert saved["status"] == "complete"
    jsonschema.validate(saved, verification_schema())
    for name in outcomes:
        assert name in done.stdout


def test_a_quick_one_takes_a_minute(verified):
    """The promise, with a tenth for starting Python."""
    assert verified[2] < 66


def test_it_is_shown_again_without_torch(verified, tmp_path):
    """`loadtune report` knows a verification, and renders its page."""
    done, out, _ = verified
    page = tmp_path / "page.html"
    again = loadtune("report", str(out / "verification.json"), "--html", str(page))
    assert again.returncode == 0
    assert again.stdout.splitlines()[:3] == done.stdout.splitlines()[:3]
    assert page.read_text() == (out / "verification.html").read_text()


def test_bad_input_is_refused_before_anything_runs():
    """Two lines, the code of a probe."""
    done = loadtune("verify", "--dataset", "none/here")
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 2 or "hint:" in done.stderr


def make_bench(launcher, device):
    plan = SimpleNamespace(device=device, limits=read_limits())
    return Bench(
        run=SimpleNamespace(plan=plan, began_s=time.monotonic()),
        launcher=launcher,
        nvml=Nvml.open(),
        trial=None,
        is_quick=True,
    )


def test_a_mishap_that_is_told_wrongly_fails(launcher, monkeypatch):
    """The check can fail: a worker that dies is no full memory."""
    bench = make_bench(launcher, replay())
    monkeypatch.setattr(mishaps, "find_leftovers", lambda groups, since_s: ["process 7"])
    check = mishaps._check(
        bench, mishaps._spec(bench, "DyingWorker", 2), id="x", claim="c", expected=(Cause.DEVICE_MEMORY,)
    )
    assert check.outcome is Outcome.FAILS
    assert "worker died" in check.reason
    assert "process 7" in check.reason


def test_a_slow_replayed_device_does_not_hide_a_mishap(launcher):
    """A minute a step in the user's profile: the worker dies within seconds all the same."""
    check = mishaps.check_killed_worker(make_bench(launcher, replay(60.0)))
    assert check.outcome is Outcome.HOLDS


def test_a_cpu_has_no_memory_of_its_own(launcher):
    """There is nothing to exhaust but the host's."""
    assert mishaps.check_device_memory(make_bench(launcher, DeviceChoice(kind="cpu"))) is None


def test_a_machine_short_of_memory_is_spared(launcher, monkeypatch):
    """A deliberate shortage there would be a real one."""
    monkeypatch.setattr(mishaps, "ROOM_BYTES", 1 << 60)
    check = mishaps.check_host_memory(make_bench(launcher, replay()))
    assert check.outcome is Outcome.UNKNOWN
