"""The package installs from a wheel that has everything."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_wheel_has_every_module_and_the_type_marker(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(ROOT),
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("ray_pipelines-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        modules = {str(file.relative_to(ROOT)) for file in (ROOT / "ray_pipelines").rglob("*.py")}
        assert modules <= names
        assert "ray_pipelines/py.typed" in names
        assert not any(name.startswith(("tests/", "jobs/")) for name in names)
        metadata = next(name for name in names if name.endswith("METADATA"))
        text = archive.read(metadata).decode()
    assert "License-Expression: Apache-2.0" in text
    assert all(f"Provides-Extra: {extra}" in text for extra in ("vision", "audio", "s3"))
