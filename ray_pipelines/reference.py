"""Tasks and job files for readers, made from where they are defined: in a terminal, and as pages of the repository.

ray-pipelines tasks NAME              a task: inputs, parameters, result, a job file to start from
ray-pipelines tasks --markdown        all tasks as a table
ray-pipelines schema --markdown       all settings of a job file
python -m ray_pipelines.reference     writes them into README.md and jobs/README.md (`make pages`); a test compares
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ray_pipelines import tasks
from ray_pipelines.job_file import job_schema

__all__ = ["job_reference", "pages", "task_list", "task_page", "task_table", "type_text", "with_blocks"]

MEDIA = {
    "image": "images",
    "images": "images",
    "audio": "recordings",
    "video": "videos",
    "videos": "videos",
    "named images": "several together",
}
Schema = Mapping[str, Any]
NAMES = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}


def task_page(task: tasks.Task) -> RenderableType:
    """A task for a terminal: what it takes and gives, and how to begin."""
    also = f" (also called {', '.join(task.aliases)})" if task.aliases else ""
    inputs = Table("input", "modality", "required", "what it is", title="inputs", title_justify="left")
    for field in task.inputs:
        inputs.add_row(field.name, field.modality, "yes" if field.required else "", Text(field.description))
    schema = task.parameters.model_json_schema()
    parameters = Table("parameter", "may be", "default", "what it does", title="parameters", title_justify="left")
    for name, setting in schema["properties"].items():
        kinds = type_text(setting, schema.get("$defs", {})).replace("`", "")
        default = json.dumps(setting.get("default"), ensure_ascii=False)
        parameters.add_row(name, Text(kinds), Text(default), Text(setting.get("description", "")))
    assert task.result_type is not None
    return Group(
        Text.assemble((task.name, "bold"), f"{also}: {task.summary}\n"),
        inputs,
        parameters,
        Text.assemble(("result", "bold"), f"\n  {task.result_description}\n"),
        Text(f"  Arrow: {task.result_type(task.parameters())}\n"),
        Text.assemble(("job.yaml", "bold"), f"  (more: jobs/{task.name}.yaml)\n{_first_job(task)}"),
        Text.assemble(("Python", "bold"), f"\n  {_first_call(task)}\n"),
        Text.assemble(("models", "bold"), f"\n  https://huggingface.co/models?pipeline_tag={task.name}&sort=downloads"),
    )


def _first_job(task: tasks.Task) -> str:
    inputs = ", ".join(f"{field.name}: your_{field.name}_column" for field in task.inputs if field.required)
    return (
        f"  task: {task.name}\n"
        "  model: org/model                      # unset: the task's default\n"
        f"  inputs: {{{inputs}}}\n"
        "  read: {path: s3://your-bucket/in/}\n"
        "  write: {path: s3://your-bucket/out/}\n"
    )


def _first_call(task: tasks.Task) -> str:
    names = ", ".join(f'{field.name}="your_{field.name}_column"' for field in task.inputs if field.required)
    return f'ray_pipelines.pipeline("{task.name}", model="org/model")(dataset, {names})'


def task_table() -> str:
    """The tasks as a Markdown table, with links to their example jobs."""
    lines = ["| task | what it gives | inputs | a result |", "|---|---|---|---|"]
    for task in map(tasks.get, tasks.names()):
        aliases = f" (also `{'`, `'.join(task.aliases)}`)" if task.aliases else ""
        inputs = ", ".join(f"`{field.name}`" if field.required else f"[`{field.name}`]" for field in task.inputs)
        link = f"[`{task.name}`]({task.name}.yaml){aliases}"
        lines.append(f"| {link} | {task.summary} | {inputs} | {_cell(task.result_description)} |")
    return "\n".join(lines)


def task_list() -> str:
    """The tasks by what they look at, each as a link to its example job."""
    groups: dict[str, list[str]] = {name: [] for name in ("texts", *dict.fromkeys(MEDIA.values()))}
    for task in map(tasks.get, tasks.names()):
        aliases = f" ({', '.join(f'`{alias}`' for alias in task.aliases)})" if task.aliases else ""
        groups[_looks_at(task)].append(f"[`{task.name}`](jobs/{task.name}.yaml){aliases}")
    return "\n".join(f"- **{name}**: {' · '.join(links)}" for name, links in groups.items())


def _looks_at(task: tasks.Task) -> str:
    media = {MEDIA[field.modality] for field in task.inputs if field.modality in MEDIA}
    has_text = any(field.modality == "text" and field.required for field in task.inputs)
    if not media:
        return "texts"
    return "several together" if has_text or len(media) > 1 or "chat" in task.inputs[0].modality else media.pop()


def job_reference() -> str:
    """Every setting of a job file, section by section, with its type, default and meaning."""
    schema = job_schema()
    return "\n\n".join(_sections(schema, schema["$defs"]))


def type_text(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """What a setting may be, in a few words.

    >>> type_text({"anyOf": [{"type": "integer"}, {"const": "auto"}, {"type": "null"}]}, {})
    'integer, `auto` or null'
    >>> type_text({"type": "array", "items": {"type": "string"}}, {})
    'list of text'
    """
    kinds = list(dict.fromkeys(_kinds(schema, definitions)))
    return " or ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds) or "anything"


def pages() -> dict[str, dict[str, str]]:
    """File of the repository: name of a block between two comments: what stands there."""
    return {
        "README.md": {"tasks": task_list()},
        "jobs/README.md": {"tasks": task_table(), "settings": job_reference()},
    }


def with_blocks(page: str, blocks: Mapping[str, str]) -> str:
    """A page with the text of each block between its two comments.

    >>> with_blocks("<!-- a -->\\nold\\n<!-- /a -->", {"a": "new"})
    '<!-- a -->\\nnew\\n<!-- /a -->'
    """
    for name, text in blocks.items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        assert begin and end, f"the page has no block {name!r}"
        page = f"{before}{begin}{text}\n{end}{after}"
    return page


def _sections(schema: Schema, definitions: Mapping[str, Schema]) -> Iterator[str]:
    top: dict[str, Schema] = {}
    nested: dict[str, Schema] = {}
    for name, setting in schema["properties"].items():
        section = _section_of(setting, definitions)
        (top if section is None else nested)[name] = setting
    required = schema.get("required", ())
    yield _table(top, definitions, required, nested)
    for name, setting in nested.items():
        yield from _section(name, setting, definitions)


def _section(name: str, setting: Schema, definitions: Mapping[str, Schema]) -> Iterator[str]:
    found = _section_of(setting, definitions)
    assert found is not None
    title = f"{name}.NAME" if "additionalProperties" in setting else name
    # A filesystem is described once, where it is read.
    inner = {
        key: value
        for key, value in found["properties"].items()
        if key == "filesystem" and name == "read" and _section_of(value, definitions)
    }
    plain = {key: value for key, value in found["properties"].items() if key not in inner}
    about = setting.get("description") or found["description"]
    yield f"### `{title}`\n\n{about}\n\n{_table(plain, definitions, found.get('required', ()), inner, name)}"
    for key, value in inner.items():
        yield from _section(f"{name}.{key}", value, definitions)


def _section_of(setting: Schema, definitions: Mapping[str, Schema]) -> Schema | None:
    """The definition of the mapping that a setting holds; None if it holds a plain value."""
    of_names = setting.get("additionalProperties")
    for option in (setting, *setting.get("anyOf", ()), *([of_names] if isinstance(of_names, dict) else [])):
        name = option.get("$ref", "").rpartition("/")[2]
        if "properties" in definitions.get(name, {}):
            return definitions[name]
    return None


def _table(
    settings: Mapping[str, Schema],
    definitions: Mapping[str, Schema],
    required: Any = (),
    nested: Mapping[str, Schema] = MappingProxyType({}),
    prefix: str = "",
) -> str:
    lines = ["| setting | may be | default | what it does |", "|---|---|---|---|"]
    for name, setting in settings.items():
        default = "**required**" if name in required else _default(setting)
        text = type_text(setting, definitions)
        lines.append(f"| `{name}` | {_cell(text)} | {default} | {_cell(setting.get('description', ''))} |")
    for name, setting in nested.items():
        found = _section_of(setting, definitions) or {}
        link = f"{prefix}{name}{'name' if 'additionalProperties' in setting else ''}".lower()
        about = setting.get("description") or found.get("description", "")
        default = "**required**" if name in required else ""
        lines.append(f"| [`{name}`](#{link}) | mapping | {default} | {_cell(about)} |")
    return "\n".join(lines)


def _default(setting: Schema) -> str:
    default = setting.get("default")
    return f"`{json.dumps(default)}`" if default not in (None, "", [], {}) else ""


def _kinds(schema: Schema, definitions: Mapping[str, Schema]) -> Iterator[str]:
    if "anyOf" in schema:
        for option in schema["anyOf"]:
            yield from _kinds(option, definitions)
    elif "$ref" in schema:
        yield "mapping"
    elif "const" in schema:
        yield f"`{schema['const']}`"
    elif "enum" in schema:
        yield from (f"`{value}`" for value in schema["enum"])
    elif schema.get("type") == "array":
        pair = schema.get("prefixItems")
        yield f"list of {type_text(schema.get('items') or {}, definitions)}" if not pair else "[least, most]"
    elif schema.get("type") == "object":
        yield "mapping"
    elif schema.get("type") in NAMES:
        yield NAMES[schema["type"]]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    for file, blocks in pages().items():
        Path(file).write_text(with_blocks(Path(file).read_text(encoding="utf-8"), blocks), encoding="utf-8")
