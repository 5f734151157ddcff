"""The Grafana board shows what is exported, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ray_pipelines.data.prometheus import METRICS as OF_JOBS
from ray_pipelines.serve.metrics import METRICS as OF_ENDPOINTS

METRICS = (*OF_JOBS.values(), *OF_ENDPOINTS.values())
BOARD = Path(__file__).parents[3] / "cluster_configs/grafana/ray_pipelines.json"


def board() -> dict[str, Any]:
    return json.loads(BOARD.read_text())  # type: ignore[no-any-return]


def test_the_board_asks_for_every_metric_by_its_exported_name() -> None:
    asked = set(re.findall(r"ray_pipelines_\w+", " ".join(expressions())))
    assert asked == {metric.exported_name for metric in METRICS}


def test_the_board_groups_by_labels_that_exist() -> None:
    known = {"task", "model", "le", *(label for metric in METRICS for label in metric.labels)}
    grouped = {
        label
        for text in expressions()
        for labels in re.findall(r"by \(([^)]*)\)", text)
        for label in labels.split(", ")
    }
    assert grouped and grouped <= known
    for text in expressions():
        assert text.count("(") == text.count(")") and text.count("{") == text.count("}")


def test_panels_fill_the_grid_without_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    panels = board()["panels"]
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells, panel["title"]
        cells |= own
        assert {target["refId"] for target in panel["targets"]} and panel["type"] in ("timeseries", "stat")
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(cells) == 24 * max(y + 1 for _, y in cells)


def test_variables_and_data_source_are_those_of_the_board() -> None:
    names = {variable["name"] for variable in board()["templating"]["list"]}
    text = BOARD.read_text()
    used = set(re.findall(r"\$\{?([a-z]\w+)\}?", text)) - {"__rate_interval", "__range", "__all"}
    assert used == names
    assert {panel["datasource"]["uid"] for panel in board()["panels"]} == {"${datasource}"}


def expressions() -> list[str]:
    return [target["expr"] for panel in board()["panels"] for target in panel["targets"]]
