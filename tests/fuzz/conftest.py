"""The fuzzing of a worker uses what the worker's tests use."""

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

# Loaded by path: test directories are no packages, and pytest allows `pytest_plugins` in the root conftest only.
_path = Path(__file__).parent.parent / "worker" / "conftest.py"
_spec = importlib.util.spec_from_file_location("rqueue_worker_conftest", _path)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _module  # dataclasses look their module up
_spec.loader.exec_module(_module)
globals().update({name: value for name, value in vars(_module).items() if not name.startswith("__")})


@pytest.fixture(autouse=True)
def the_same_examples_whatever_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis takes constants from all modules that are loaded: other tests would change what is tried here."""
    monkeypatch.setattr(providers, "_get_local_constants", Constants)
