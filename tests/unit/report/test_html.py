"""The page of a run: complete by itself, safe with whatever is in the rows, and bounded in size."""

from __future__ import annotations

import io
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

from ray_pipelines import tasks
from ray_pipelines.engine.counters import Counters
from ray_pipelines.media.masks import encode_mask
from ray_pipelines.report.agreement import Agreement
from ray_pipelines.report.html import html_report
from ray_pipelines.report.metrics import Progress, RunReport
from ray_pipelines.report.samples import MAX_MEDIA_BYTES, Sample, card
from ray_pipelines.report.terminal import summary_table

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' onload='alert(3)"


def report_of(**changes: Any) -> RunReport:
    counters = Counters(
        num_forwards=4, num_chunks=8, cost=80, padded_cost=100, forward_s=3.0, worker_s=4.0, begun_s=1.0
    )
    counters.note_costs([3, 9, 9, 200])
    progress = Progress(num_rows_expected=40, plan="1 x (1 CPU, 2 threads)", counters=counters)
    for block in range(4):
        stats: dict[str, Any] = {"num_rows": 10, "num_errors": 1, "counters": "{}", "results_file": f"r{block}"}
        stats["written_s"] = 1.0 + block
        stats |= {"errors": [{"reason": f"decode: {ATTACK}", "count": 1}], "dead_letters_file": None}
        progress.add(stats, elapsed_s=2.0 + block)
    provenance = {"task": "text-classification", "model": f"me/{ATTACK}", "run_id": "r", "parameters": {"a": ATTACK}}
    report = RunReport.of(progress, provenance, elapsed_s=5.0)
    return RunReport(**{**vars(report), **changes})


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.update(name for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags_of(page: str) -> Tags:
    parser = Tags()
    parser.feed(page)
    assert not parser.open
    return parser


def test_texts_of_users_are_never_markup() -> None:
    samples = [
        Sample(ATTACK, {"text": ATTACK, "more": ATTACK}, [{"label": ATTACK, "score": 0.5}]),
        Sample("b", {"text": {ATTACK: ATTACK}}, {"answer": ATTACK}),
        Sample("c", {"text": [ATTACK]}, [{"generated_text": ATTACK}]),
        Sample("d", {"text": None}, [{"word": ATTACK, "entity": ATTACK, "score": None}]),
    ]
    found = tags_of(html_report(report_of(), samples))
    assert found.tags["script"] == 0 and found.tags["img"] == 0
    assert not any(name.startswith("on") for name in found.attributes)
    assert found.tags["article"] == 4


def test_the_page_needs_nothing_from_elsewhere() -> None:
    sample = Sample("a", {"image": Image.new("RGB", (40, 30)), "audio": np.zeros(16000, np.float32)}, "x")
    page = html_report(report_of(), [sample])
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) == 2 and all(source.startswith("data:") for source in sources)
    assert "http://" not in page and "https://" not in page and "url(" not in page


def test_media_and_texts_are_cut_to_a_size() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), dtype=np.uint8)
    inputs = {
        "image": Image.fromarray(noise),
        "audio": np.random.default_rng(0).uniform(-1, 1, 16000 * 600).astype(np.float32),
        "text": "long " * 100_000,
    }
    big = [{"label": "x" * 100_000, "score": 1.0}] * 1000
    assert len(card(Sample("p" * 10_000, inputs, big))) < 3 * MAX_MEDIA_BYTES


def test_boxes_masks_and_depths_are_drawn_on_the_picture() -> None:
    image = Image.new("RGB", (100, 80), "white")
    plain = card(Sample("a", {"image": image}, "nothing"))
    mask = np.zeros((80, 100), dtype=bool)
    mask[10:30, 10:50] = True
    box = {"xmin": 10, "ymin": 10, "xmax": 60, "ymax": 50}
    depth = {"shape": [4, 5], "data": np.arange(20.0).tolist()}
    for result in (
        [{"box": box, "score": 0.9, "label": "cat"}],
        [{"mask": encode_mask(mask), "score": 0.9, "label": "cat"}],
        {"predicted_depth": depth, "depth": None},
    ):
        drawn = card(Sample("a", {"image": image}, result))
        assert drawn.count("<img") == 1
        assert re.search(r"base64,[^\"]+", drawn)[0] != re.search(r"base64,[^\"]+", plain)[0]  # type: ignore[index]


def test_cost_checks_and_forecast_are_on_the_page_and_in_json() -> None:
    certificate = Agreement(num_rows=64, num_equal=63, max_difference=0.002)
    report = report_of(price_per_hour=36.0, certificate=certificate)
    page, values = html_report(report), report.as_dict()
    assert values["price"] == {"run": 0.05, "million_rows": 1250.0}
    assert values["certificate"]["share_equal"] == pytest.approx(0.9844)
    assert values["cost_counts"] == {"<4": 1, "<16": 2, "<256": 1}
    assert "1,250" in page and "98.4%" in page and "its first rows" in page
    assert values["forecast"]["source"] == "first rows"
    assert report_of().as_dict()["price"] is None


def test_names_that_were_left_out_are_on_the_page_in_json_and_in_the_summary() -> None:
    report = report_of(left_out={"meta.[b]": 1200})
    assert report.as_dict()["left_out"] == {"meta.[b]": 1200}
    assert "meta.[b], in 1,200 row(s)" in html_report(report)
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(summary_table(report, "out"))
    assert "meta.[b], in 1,200 row(s)" in console.export_text()


@pytest.mark.parametrize(("num_names", "more"), [(5, ""), (6, "and 1 more"), (100, "and at least 95 more")])
def test_the_summary_says_how_many_names_more_were_left_out(num_names: int, more: str) -> None:
    report = report_of(left_out={f"name {n}": 1 for n in range(num_names)})
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(summary_table(report, "out"))
    text = console.export_text()
    assert text.count("no sampled row has it") == 5
    assert (more in text) if more else ("more" not in text)
    assert ("and at least 88 more" in html_report(report)) == (num_names == 100)


def test_a_run_without_rows_has_a_page() -> None:
    empty = RunReport.of(Progress(num_rows_expected=0, plan=""), {"task": "t", "model": "m"}, elapsed_s=1.0)
    assert tags_of(html_report(empty)).tags["section"] >= 4


def test_the_timeline_stays_bounded_and_reaches_the_end() -> None:
    progress = Progress(num_rows_expected=None, plan="")
    stats = {
        "num_rows": 2,
        "num_errors": 0,
        "counters": "{}",
        "written_s": 0.0,
        "errors": [],
        "results_file": "",
        "dead_letters_file": "",
    }
    for block in range(5000):
        progress.add(stats, elapsed_s=block / 10)
    assert 100 <= len(progress.timeline) <= 240
    assert progress.timeline[-1][1] > 9_800


@pytest.mark.parametrize("name", tasks.names())
def test_results_of_every_task_have_a_card(name: str) -> None:
    task = tasks.get(name)
    assert task.result_type is not None
    result = value_of(task.result_type(task.parameters()))
    shown = card(Sample("row", {"input": "a row"}, result))
    assert tags_of(shown).tags["article"] == 1
    assert "<script" not in shown


def value_of(kind: pa.DataType) -> Any:
    """Some value of an Arrow type, with an attack in every text."""
    if pa.types.is_struct(kind):
        return {field.name: value_of(field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [value_of(kind.value_type)] * 7
    if pa.types.is_map(kind):
        return [(value_of(kind.key_type), value_of(kind.item_type))]
    if pa.types.is_floating(kind):
        return 0.25
    if pa.types.is_integer(kind):
        return 7
    if pa.types.is_boolean(kind):
        return True
    return b"\x00" if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else ATTACK
