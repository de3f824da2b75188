"""`loadtune doctor` as people type it: what it prints, returns, and never does."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo" / "nuclei"
CODES = {"ok": 0, "unknown": 0, "note": 0, "warning": 12, "error": 13}
RANKS = list(CODES)


def doctor(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-m", "loadtune", "doctor", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def severities(found: dict[str, Any]) -> dict[str, str]:
    return {line["check"]: line["severity"] for line in found["lines"]}


def test_the_demo_data_are_looked_at_and_the_exit_code_says_the_worst() -> None:
    """JSON that fits its schema, with a line on every topic; the exit code is that of the worst line."""
    done = doctor("--dataset", str(DEMO), "--json")
    found = json.loads(done.stdout)
    schema = subprocess.run(
        [sys.executable, "-m", "loadtune", "schema", "--doctor"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    jsonschema.validate(found, json.loads(schema.stdout))
    assert {line["topic"] for line in found["lines"]} == {
        "processor", "memory", "processes", "data", "software", "gpu",
    }  # fmt: skip
    assert done.returncode == CODES[max(severities(found).values(), key=RANKS.index)]
    assert severities(found)["data"] == "ok"
    assert found["has_cuda_checks"] is False
    assert done.stderr == ""


def test_the_terminal_says_the_same_as_the_json() -> None:
    """Every title, a verdict, and what to type next or what to fix."""
    told = json.loads(doctor("--dataset", str(DEMO), "--json").stdout)
    shown = " ".join(doctor("--dataset", str(DEMO), COLUMNS="200").stdout.split())
    assert all(f"{line['title']}" in shown for line in told["lines"])
    assert "Of " in shown
    assert "checks:" in shown


def test_settings_that_harm_are_found() -> None:
    """More threads than cores, and a shell with few open files: exit code 12 or worse, and the lines say so."""
    told = doctor("--json", OMP_NUM_THREADS="4096")
    assert severities(json.loads(told.stdout))["threads"] == "warning"
    assert told.returncode in {12, 13}
    command = f"ulimit -n 200; exec {sys.executable} -m loadtune doctor --json"
    few = subprocess.run(
        ["sh", "-c", command], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert severities(json.loads(few.stdout))["open-files"] == "warning"


@pytest.mark.parametrize("path", ["/nowhere/at/all", "/etc/passwd/below", ""])
def test_a_path_that_is_not_there_is_an_error_beside_all_else(path: str) -> None:
    """The machine is looked at all the same."""
    done = doctor("--dataset", path, "--json")
    found = severities(json.loads(done.stdout))
    assert found["data"] == "error"
    assert done.returncode == 13
    assert {"cores", "memory", "torch"} <= found.keys()


def test_names_that_are_not_utf8_are_shown_in_letters(tmp_path: Path) -> None:
    """In the terminal and in JSON."""
    folder = tmp_path / os.fsdecode(b"\xff\x1b[31m")
    folder.mkdir()
    (folder / os.fsdecode(b"\xfe")).write_bytes(b"x")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for words in ([], ["--json"]):
        command = [sys.executable, "-m", "loadtune", "doctor", "--dataset", str(folder), *words]
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert done.returncode in {0, 12, 13}, done.stderr
        text = done.stdout.decode("utf-8")
        assert "udcff" in text
        assert "\x1b" not in text
    assert severities(json.loads(text))["data"] == "ok"


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: cannot become somebody else")
def test_a_stranger_s_data_are_listed_and_their_page_cache_is_unknown() -> None:
    """As an ordinary user: a closed folder, a closed file, and files of which the kernel does not tell."""
    nobody = 65534
    data = Path(tempfile.mkdtemp(prefix="loadtune-test-")) / "data"  # pytest's own folder is closed to others
    data.parent.chmod(data.parent.stat().st_mode | 0o055)
    shutil.copytree(DEMO, data)
    try:
        for path in (data, *data.rglob("*")):
            path.chmod(path.stat().st_mode | 0o055)
        # Imported first: the interpreter itself may lie where only its owner may read.
        script = (
            "import encodings.ascii, json, os; from loadtune.doctor.looking import look_at_storage; "
            f"os.setgroups([]); os.setgid({nobody}); os.setuid({nobody}); "
            f"found = look_at_storage({str(data)!r}); "
            "print(json.dumps([found.files.seen, found.files.refused, found.residency.files, found.residency.told, "
            "found.residency.refused]))"
        )

        def run() -> list[int]:
            done = subprocess.run(
                [sys.executable, "-c", script],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=True,
            )
            answer: list[int] = json.loads(done.stdout)
            return answer

        seen, refused, files, told, closed = run()
        assert (refused, told, closed) == (0, 0, 0)
        assert files == seen > 0
        victim = next(path for path in sorted(data.rglob("*")) if path.is_file())
        victim.chmod(0o600)
        assert run()[4] == 1
        victim.parent.chmod(0o700)
        assert run()[1] == 1
    finally:
        shutil.rmtree(data.parent)


def test_no_torch_is_loaded_and_nothing_is_written(tmp_path: Path) -> None:
    """In the parent, --gpu or not; and the folder it runs in stays empty."""
    script = (
        "import sys; from loadtune.cli import main; code = main(['doctor', '--json']); "
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == "False"
    assert list(tmp_path.iterdir()) == []


def test_gpu_tries_cuda_in_a_process_of_its_own() -> None:
    """Where there is none, each line says why; where there is one, it is named."""
    found = json.loads(doctor("--gpu", "--json").stdout)
    told = {line["check"]: line for line in found["lines"]}
    assert found["has_cuda_checks"] is True
    assert {"cuda", "device-order", "pcie", "copy-rates"} <= told.keys()
    if told["cuda"]["severity"] == "unknown":
        assert told["cuda"]["reason"].startswith("no CUDA: ")
        assert {told[name]["reason"] for name in ("device-order", "pcie", "copy-rates")} == {told["cuda"]["reason"]}


def test_a_torch_that_cannot_be_imported_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    """As the CPU build of torch beside PyPI's torchvision is."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    (tmp_path / "torch/version.py").write_text("__version__ = '2.14.1+cpu'\ncuda = None\n")
    done = doctor("--gpu", "--json", PYTHONPATH=f"{tmp_path}:{ROOT}")
    told = {line["check"]: line for line in json.loads(done.stdout)["lines"]}
    assert done.returncode == 13
    assert told["cuda"]["severity"] == "error"
    assert "nms does not exist" in told["cuda"]["found"]
    assert told["torch-torchvision"]["severity"] == "error"
    assert "Traceback" not in done.stderr


def test_schemas_exclude_each_other() -> None:
    """One at a time."""
    from loadtune.cli import main

    assert main(["schema", "--doctor", "--profile"]) == 2
