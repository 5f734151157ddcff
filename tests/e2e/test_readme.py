"""The README says what is so: see tests/unit/test_reference.py for its links, commands, job files and tables."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import ray_pipelines as rp

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_calls_what_exists(text: str) -> None:
    tree = ast.parse(text)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "rp"}
    assert used <= set(rp.__all__)


def test_demo_output_shows_the_held_out_accuracy() -> None:
    demo = README.split("<!-- demo -->")[1].split("<!-- /demo -->")[0]
    (share,) = re.findall(r"Accuracy on 797 images that the model has not been trained on: (\d+\.\d)%", demo)
    assert float(share) >= 95
