"""The meter that attackers are driven under, and a small trained network to attack."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def meter() -> ModuleType:
    """The module beside this file: `meter.attack(agent, meter.protocol(), target, x, label)`."""
    name = "attack_meter"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("meter.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up while it is being read.
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
