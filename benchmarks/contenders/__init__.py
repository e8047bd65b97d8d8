"""The contenders: each module here describes some, those named ``*_app`` aside, which are what their workers load."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from benchmarks.contender import Contender

__all__ = ["find_contenders"]


def find_contenders() -> dict[str, Contender]:
    """All contenders by name: rqueue first, then the floors, then the peers by name."""
    found: list[Contender] = []
    for module in pkgutil.iter_modules(__path__):
        if not module.name.endswith("_app"):
            found += import_module(f"{__name__}.{module.name}").CONTENDERS
    ranks = {"rqueue": 0, "floor": 1}
    return {each.name: each for each in sorted(found, key=lambda one: (ranks.get(one.name.split("-")[0], 2), one.name))}
