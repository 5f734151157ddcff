"""What the examples in docstrings say is what they give."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import ray_pipelines

PACKAGE = Path(ray_pipelines.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed
