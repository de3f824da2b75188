"""loadtune: which DataLoader setting, batch size and learning rate should this training use, and how sure is that?

Importing it loads neither torch nor anything else that takes long.
"""

from typing import TYPE_CHECKING, Any

from loadtune.errors import LoadtuneError
from loadtune.version import __version__

if TYPE_CHECKING:
    from loadtune.advised import Advice
    from loadtune.options import ProbeOptions
    from loadtune.recommending import probe, recommend
    from loadtune.records.report import Report
    from loadtune.schedule.anneal import anneal
    from loadtune.schedule.noise_scale import NoiseScale
    from loadtune.schedule.rescale import rescale

__all__ = [
    "Advice",
    "LoadtuneError",
    "NoiseScale",
    "ProbeOptions",
    "Report",
    "__version__",
    "anneal",
    "probe",
    "recommend",
    "rescale",
]

_HOMES = {
    "Advice": "loadtune.advised",
    "NoiseScale": "loadtune.schedule.noise_scale",
    "ProbeOptions": "loadtune.options",
    "Report": "loadtune.records.report",
    "anneal": "loadtune.schedule.anneal",
    "probe": "loadtune.recommending",
    "recommend": "loadtune.recommending",
    "rescale": "loadtune.schedule.rescale",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'loadtune' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
