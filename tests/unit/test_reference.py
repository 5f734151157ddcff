"""Pages that are generated are up to date, and what pages say of errors, links and commands is so."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import typer.main
import yaml

from ray_pipelines import cli, errors, reference, tasks
from ray_pipelines.job_file import validate_job

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("jobs/models/*/*.md")]
    if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCED.findall(page.read_text(encoding="utf-8")) if found == language]


def commands(page: Path) -> Iterator[list[str]]:
    for text in blocks(page, "console"):
        yield from (shlex.split(line[2:], comments=True) for line in text.splitlines() if line.startswith("$ "))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return set(plain)


@pytest.mark.parametrize("file", reference.pages())
def test_generated_blocks_are_up_to_date(file: str) -> None:
    page = (ROOT / file).read_text(encoding="utf-8")
    assert reference.with_blocks(page, reference.pages()[file]) == page, "run: make pages"


def test_every_task_and_every_setting_has_its_place() -> None:
    listed = reference.task_list()
    assert all(listed.count(f"[`{name}`](jobs/{name}.yaml)") == 1 for name in tasks.names())
    described = reference.job_reference()
    for setting in (
        "`task`",
        "### `tasks.NAME`",
        "[`tasks`](#tasksname)",
        "`max_error_rate`",
        "[`read`](#read)",
        "### `read.filesystem`",
        "`endpoint_url`",
    ):
        assert setting in described
    assert "| `path` | text or list of text | **required** |" in described
    assert '| `budget` | integer, `auto` or null | `"auto"` |' in described


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\((?!https?://|mailto:)([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_exist_with_their_options(page: Path) -> None:
    program = typer.main.get_command(cli.app)
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(page):
        if words[0] == "ray-pipelines":
            name, *arguments = (word for word in words[1:] if word != ">")
            command = program.commands[name]  # type: ignore[attr-defined]
            command.make_context(name, [argument for argument in arguments if not argument.endswith(".json")])
        elif words[0] == "make":
            assert words[1] in targets, words
        elif "-m" in words:
            assert importlib.util.find_spec(words[words.index("-m") + 1]), words


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_job_files_on_pages_are_valid(page: Path) -> None:
    for text in blocks(page, "yaml"):
        values = yaml.safe_load(text)
        if "task" in values or "tasks" in values:
            assert validate_job(values).parts


def test_every_error_and_exit_status_is_explained() -> None:
    section = README[README.index("## When things go wrong") :].split("\n## ")[0]
    rows = re.findall(r"^\| `?(\w+)`? \|", section, re.MULTILINE)
    classes = {
        name
        for name in errors.__all__
        if isinstance(getattr(errors, name), type) and issubclass(getattr(errors, name), Exception)
    }
    assert classes - {"RayPipelinesError", "RowError"} <= set(rows)
    assert "`RayPipelinesError`" in section and "`RowError`" in section
    statuses = {value for name, value in vars(cli).items() if name.startswith("EXIT_")}
    raised = {getattr(errors, name).exit_status for name in classes if hasattr(getattr(errors, name), "exit_status")}
    assert {str(status) for status in statuses | raised} <= set(rows)


def test_a_page_of_a_task_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    Console(width=120).print(reference.task_page(tasks.get("question-answering")))
    shown = capsys.readouterr().out
    for expected in (
        "handle_impossible_answer",
        "inputs: {question: your_question_column, context:",
        "Arrow: ",
        "models",
    ):
        assert expected in shown


def test_example_of_a_new_task_is_a_task(model: Callable[[str], str]) -> None:
    from ray_pipelines.arrow import results_to_arrow
    from ray_pipelines.config import BatchConfig, MediaLimits, ModelConfig
    from ray_pipelines.engine.hub import resolve_model
    from ray_pipelines.engine.load import load_runner

    page = ROOT / "CONTRIBUTING.md"
    (source,) = blocks(page, "python")
    module = types.ModuleType("language_identification")
    with patch.dict(sys.modules, {module.__name__: module}):
        exec(source, vars(module))
        task = module.TASK
        parameters = task.parameters()
        pinned = resolve_model(task.name, ModelConfig(name=model("bert-classifier")), {})
        runner = load_runner(task, pinned, parameters, BatchConfig(), MediaLimits(), device="cpu")
        results = list(runner.run(map(runner.steps.item_of_input, ["a text", "a longer text", None])))
    assert isinstance(results[2], errors.RowError) and results[0]["language"]
    column, _ = results_to_arrow(results[:2], task.result_type(parameters))
    assert column.type == task.result_type(parameters)
    assert f"ray_pipelines/tasks/{task.name.replace('-', '_')}.py" in page.read_text(encoding="utf-8")
