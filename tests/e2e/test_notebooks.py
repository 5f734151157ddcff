"""Every notebook runs from its first to its last cell, and is kept in git as a source: without outputs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TIMEOUT_S = 500
MAX_MARKDOWN_CHARS = 700


def name(file: Path) -> str:
    return file.stem


@pytest.fixture
def own_folders() -> Iterator[None]:
    """The kernel's Ray finds no other cluster of this machine, and leaves nothing behind."""
    folder = tempfile.mkdtemp(prefix="nb-", dir="/tmp")
    environment = {
        "RAY_TMPDIR": folder,
        "TMPDIR": folder,
        "IPYTHONDIR": f"{folder}/ipython",
        "MPLCONFIGDIR": f"{folder}/matplotlib",
        "RAY_PIPELINES_CACHE": f"{folder}/cache",
        "RAY_AUTH_MODE": "disabled",
        "HF_HUB_OFFLINE": "0",  # InferenceClient takes it to mean this machine, too
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    with patch.dict(os.environ, environment):
        os.environ.pop("RAY_ADDRESS", None)
        yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("own_folders")
@pytest.mark.filterwarnings("ignore:.*TCP without encryption")
@pytest.mark.parametrize("file", NOTEBOOKS, ids=name)
def test_notebook_runs_and_draws(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    folder = {"metadata": {"path": str(file.parent)}}
    NotebookClient(notebook, timeout=TIMEOUT_S, resources=folder).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output.text for output in outputs if "Traceback" in output.get("text", "")]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=name)
def test_notebook_is_stripped_and_no_wall_of_text(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "clear all outputs"
    assert all(len(cell.source) < MAX_MARKDOWN_CHARS for cell in notebook.cells if cell.cell_type == "markdown")
    assert "With your own" in notebook.cells[0].source, "the first cell names a model of the Hub to put in"
