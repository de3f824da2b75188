"""What this machine lacks becomes a skip with its reason.

The browser's reason is in `browser/conftest.py`, beside what drives it.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

collect_ignore_glob = ["targets/*"]
"""Not to be imported in search of doctests: some of them crash or hang on purpose."""

# A shell starts background jobs with SIGINT ignored, and every process of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two cores that also run other work make any single example slow now and then. On top of Hypothesis's own choice of
# a profile, which is a repeatable one where CI is set.
settings.register_profile("loadtune", settings.default, deadline=None)
settings.load_profile("loadtune")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here. A check is made only where a test asks for it."""
    for item in items:
        for marker, lacking in CHECKS.items():
            if item.get_closest_marker(marker) is not None and (reason := lacking()) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True, scope="session")
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep answers of one run apart from those of others, and out of the user's own folder."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@cache
def lacking_gpu() -> str | None:
    """Return why there is no CUDA device, None if there is.

    A process of its own asks: the question initialises CUDA, which no fork of this process could use afterwards.
    """
    if not Path("/dev/nvidiactl").exists() and shutil.which("nvidia-smi") is None:
        return "no CUDA device: no NVIDIA driver"
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    answer = subprocess.run([sys.executable, "-c", question], check=False, capture_output=True)
    return None if answer.returncode == 0 else "no CUDA device: torch.cuda.is_available() is False"


@cache
def lacking_root() -> str | None:
    """Return why no tmpfs can be mounted, None if one can."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("mount") is None:
        return "no mount command"
    with TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True, text=True
        )
        if mounted.returncode != 0:
            return f"cannot mount a tmpfs: {mounted.stderr.strip()}"
        subprocess.run(["umount", folder], check=True)
    return None


CHECKS: dict[str, Callable[[], str | None]] = {"gpu": lacking_gpu, "root": lacking_root}
