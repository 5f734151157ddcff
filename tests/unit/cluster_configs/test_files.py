"""The image, the scripts and the metrics; and what every file has to say of itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cluster_configs.files import FOLDER, ROOT, load, package_version, pins

BIN = Path(sys.executable).parent
SCRIPTS = sorted((FOLDER / "local").glob("*.sh"))
STATED = [
    *(FOLDER / name for name in ("aws.yaml", "gcp.yaml", "aws-iam.yaml", "Dockerfile")),
    *sorted((FOLDER / "kuberay").glob("*.yaml")),
    *sorted((FOLDER / "monitoring").glob("*.yaml")),
    *(script for script in SCRIPTS if script.name != "common.sh"),
]


@pytest.mark.parametrize("path", STATED, ids=lambda path: path.name)
def test_each_file_says_what_it_costs_and_how_to_end_it(path: Path) -> None:
    comments = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert "# Costs when idle: " in comments
    assert "# To end it: " in comments or path.name == "stop.sh"
    prices = re.findall(r"\d[\d.]* USD", comments)
    if prices:
        assert re.search(r"[Aa]ssumed", comments) and "mid-2025" in comments


def test_every_image_and_version_is_the_one_that_is_pinned() -> None:
    texts = {path: path.read_text() for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".json"}
    ray = {tag for text in texts.values() for tag in re.findall(r"rayproject/ray:([^\s}]+)", text)}
    python = re.search(r"Needs Python (\d+)\.(\d+)", (ROOT / "README.md").read_text())
    assert python and {tag.rpartition("-")[0] for tag in ray} == {f"{pins()['ray']}-py{python[1]}{python[2]}"}
    ours = {tag for text in texts.values() for tag in re.findall(r"ray-pipelines:(\d[^\s-]*)-", text)}
    assert ours == {package_version()}
    others = re.findall(r"image: (\S+)", texts[FOLDER / "monitoring/compose.yaml"])
    assert others and all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in others)
    # Versions stand in constraints.txt alone.
    assert not [path.name for path, text in texts.items() if re.search(r"\b(torch|transformers|ray)==", text)]


def test_hadolint_has_nothing_to_say_of_the_image() -> None:
    found = subprocess.run([BIN / "hadolint", FOLDER / "Dockerfile"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_image_is_made_of_files_that_are_there() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    allowed = {line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = {name for line in re.findall(r"^COPY --chown=1000:100 (.+)$", text, re.M) for name in line.split()[:-1]}
    assert copied == allowed and all((ROOT / name).exists() for name in copied)
    assert re.findall(r"^USER (\S+)", text, re.M)[-1] == "1000:100"


def test_shellcheck_has_nothing_to_say_of_the_scripts() -> None:
    command = [BIN / "shellcheck", "--external-sources", "--source-path=SCRIPTDIR", "--severity=style", *SCRIPTS]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["worker.sh"], "expected the address of the head, such as 10.0.0.1:6379; got ''."),
        (["worker.sh", "--num-cpus=2"], "got '--num-cpus=2'."),
        (["worker.sh", "10.0.0.1:6379"], "there is no token here."),
    ],
)
def test_scripts_refuse_what_cannot_work(command: list[str], message: str, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    script = FOLDER / "local" / command[0]
    found = subprocess.run([script, *command[1:]], env=env, capture_output=True, text=True)
    assert found.returncode == 1 and message in found.stderr
    assert "Traceback" not in found.stderr


def test_stopping_where_nothing_runs_is_no_error(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    assert subprocess.run([FOLDER / "local/stop.sh"], env=env, capture_output=True, text=True).returncode == 0


def test_prometheus_finds_the_nodes_of_each_kind_of_cluster() -> None:
    config = load("monitoring/prometheus.yaml")
    local, kubernetes = config["scrape_configs"]
    [files] = local["file_sd_configs"]
    assert files["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
    keep = kubernetes["relabel_configs"][0]
    label, port = keep["regex"].split(";")
    text = (FOLDER / "kuberay/raycluster.yaml").read_text()
    assert text.count(f"labels: {{app: {label}}}") == text.count(f"{{name: {port}, containerPort: 8080}}") == 3
    assert set(config) == {"global", "scrape_configs"}
    for job in config["scrape_configs"]:
        assert set(job) <= {"job_name", "file_sd_configs", "kubernetes_sd_configs", "relabel_configs"}


def test_grafana_is_given_the_board_and_its_data() -> None:
    compose = load("monitoring/compose.yaml")
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (FOLDER / "monitoring" / source).exists()
    [provider] = load("monitoring/grafana/dashboards.yaml")["providers"]
    boards = [volume for volume in compose["services"]["grafana"]["volumes"] if "/dashboards:" in volume]
    assert boards == [f"../grafana:{provider['options']['path']}:ro"]
    assert [json.loads(path.read_text())["uid"] for path in (FOLDER / "grafana").glob("*.json")] == ["ray-pipelines"]
    assert "/d/ray-pipelines" in (FOLDER / "monitoring/compose.yaml").read_text()
