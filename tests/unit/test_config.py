"""Job files: all problems in one message, with their paths and the nearest names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
import yaml

import ray_pipelines as rp
from ray_pipelines import tasks
from ray_pipelines.job_file import job_schema, read_values, validate_job

GOOD: dict[str, Any] = {
    "task": "text-classification",
    "model": "org/model",
    "inputs": {"text": "review"},
    "read": {"path": "in"},
    "write": {"path": "out"},
}


def problems_of(**changes: Any) -> list[str]:
    with pytest.raises(rp.ConfigError) as error:
        validate_job({**GOOD, **changes})
    return list(error.value.problems)


def test_all_problems_come_in_one_message() -> None:
    problems = problems_of(
        task="text-clasification",
        model={"name": "x", "dtype": "flaot16", "revison": "a"},
        read={"pth": "in"},
        write={"path": "out", "format": "parqet"},
        workers={"concurrency": 0, "stages": "fusd", "num_gpus": -1},
        max_error_rate=2,
        surprise=1,
    )
    text = "\n".join(problems)
    for expected in (
        'task: there is no task "text-clasification". Did you mean "text-classification"?',
        "model.dtype: expected one of auto, float32, float16, bfloat16, float64; got 'flaot16'.",
        'model.revison: unknown name. Did you mean "revision"?',
        "read.path: is required.",
        'read.pth: unknown name. Did you mean "path"?',
        "write.format: expected 'parquet', 'jsonl' or 'webdataset'; got 'parqet'. Did you mean \"parquet\"?",
        "workers.concurrency: expected at least 1 worker",
        "workers.stages: expected 'auto', 'fused' or 'split'; got 'fusd'. Did you mean \"fused\"?",
        "workers.num_gpus: expected greater than or equal to 0; got -1.",
        "max_error_rate: expected less than or equal to 1; got 2.",
        "surprise: unknown name.",
    ):
        assert expected in text, text
    assert len(problems) == 11


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"read": "in.jsonl"}, "read: expected a mapping of path, format, filesystem"),
        ({"read": "in.jsonl"}, "got 'in.jsonl'. Write {path: in.jsonl}."),
        ({"batch": 8}, "batch: expected a mapping of budget, max_size"),
        ({"parameters": {"topk": 3}}, 'parameters.topk: unknown name. Did you mean "top_k"?'),
        ({"parameters": {"(": 3}}, "parameters.(: unknown name."),
        ({"parameters": {"int": 3}}, "parameters.int: unknown name."),
        ({"parameters": {"top_k": "many"}}, "parameters.top_k: expected a whole number; got 'many'."),
        (
            {"workers": {"concurrency": [3, 1]}},
            "workers.concurrency: expected at least 1 worker, as N or [least, most], least first; got [3, 1].",
        ),
        ({"inputs": {"text": {"a": 1}}}, "inputs.text.constant: is required."),
        ({"inputs": {"text": {"a": 1}}}, "inputs.text.a: unknown name."),
        ({"read": {"path": None}}, "read.path: expected a list; got nothing."),
        ({"parameters": {"function_to_apply": "sofmax"}}, 'Did you mean "softmax"?'),
        ({"inputs": {"txt": "review"}}, 'inputs.txt: text-classification has no input "txt". Did you mean "text"?'),
        ({"inputs": {"text_pair": "b"}}, "inputs.text: is required by text-classification"),
        ({"model": {"name": "a", "device": "cpu", "device_map": "auto"}}, "device: excludes device_map"),
        ({"model": {"torch_dtype": "float16", "dtype": "float16"}}, "torch_dtype: is the old name of dtype"),
        ({"model": {"pipeline_class": "nothing"}}, "model.pipeline_class: expected module:Class; got 'nothing'."),
    ],
)
def test_problem_names_its_key(changes: dict[str, Any], expected: str) -> None:
    assert any(expected in problem for problem in problems_of(**changes))


def test_stride_without_aggregation_is_refused() -> None:
    (problem,) = problems_of(task="ner", parameters={"stride": 4})
    assert "stride: expected an aggregation_strategy" in problem


def test_aliases_and_old_names_are_accepted() -> None:
    job = validate_job({**GOOD, "task": "sentiment-analysis", "model": {"name": "a", "torch_dtype": "torch.bfloat16"}})
    assert tasks.get(job.task).name == "text-classification"
    assert job.model.dtype == "bfloat16"


def test_token_never_shows() -> None:
    job = validate_job({**GOOD, "model": {"name": "a", "use_auth_token": "hf_secret"}})
    spec = rp.pipeline("text-classification", model="a", token="hf_secret")
    assert job.model.token is not None and job.model.token.get_secret_value() == "hf_secret"
    for text in (repr(job), str(job.model_dump()), job.model_dump_json(), repr(spec), str(spec)):
        assert "hf_secret" not in text


def test_overrides_are_read_as_yaml(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    job = rp.read_job(file, ["model.dtype=float16", "parameters.top_k=3", "read.limit=10", "inputs.text=body"])
    assert (job.model.name, job.model.dtype) == ("org/model", "float16")
    assert (job.parameters, job.read.limit, job.inputs) == ({"top_k": 3}, 10, {"text": "body"})
    for wrong in ("nothing", "=1", "a..b=1", "task.x=1", "read.limit=2024-13-99", "model={name: a, name: b}"):
        with pytest.raises(rp.ConfigError, match="--set"):
            rp.read_job(file, [wrong])


def test_mappings_of_a_job_file_may_be_merged(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    merged = "c: {m: {<<: *b}}\nd: {<<: *a, <<: *b, x: 4}"
    file.write_text(f"o: {{a: &a {{x: 1, y: 2}}, i: {{b: &b {{<<: *a, x: 3}}}}}}\n{merged}")
    assert read_values(file) == {
        "o": {"a": {"x": 1, "y": 2}, "i": {"b": {"x": 3, "y": 2}}},
        "c": {"m": {"x": 3, "y": 2}},
        "d": {"x": 4, "y": 2},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "job.yaml:1:5: not valid YAML"),
        ("a: " + "[" * 5000, r"job.yaml: is nested too deeply"),
        ("- 1", "expected a mapping"),
        ("", "expected a mapping with task, read and write; got nothing."),
        ("read: {path: a}\nwrite: b\nread: c", r"job.yaml:3:1: not valid YAML: read is there twice, first in line 1"),
        ("task: t\nread: {path: a,\n  path: b}", r"job.yaml:3:3: not valid YAML: path is there twice, first in line 2"),
        ("a:\n- 2024-13-99", r"job.yaml:2:3: not valid YAML: 2024-13-99: month must be in 1..12"),
    ],
)
def test_file_that_is_no_job_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(rp.ConfigError, match=expected):
        rp.read_job(file)
    with pytest.raises(rp.ConfigError, match="cannot be read"):
        rp.read_job(tmp_path / "missing.yaml")


def test_schema_is_json_schema_and_knows_each_task() -> None:
    import jsonschema

    schema = json.loads(json.dumps(job_schema()))
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    assert validator(schema).is_valid(GOOD)
    assert not validator(schema).is_valid({**GOOD, "parameters": {"topk": 1}})
    assert not validator(schema).is_valid({**GOOD, "inputs": {"txt": "a"}})
    assert not validator(schema).is_valid({**GOOD, "surprise": 1})


def test_every_setting_is_described() -> None:
    def undescribed(schema: dict[str, Any], where: str) -> list[str]:
        properties = schema.get("properties", {})
        return [f"{where}.{name}" for name, value in properties.items() if not ({"description", "$ref"} & set(value))]

    schema = job_schema()
    missing = [name for key, value in schema["$defs"].items() for name in undescribed(value, key)]
    assert missing + undescribed(schema, "job") == []


def test_old_parameter_names_are_taken_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="return_all_scores is an old name; taken as top_k=None"):
        assert validate_job({**GOOD, "parameters": {"return_all_scores": True}}).parameters == {"top_k": None}
    with pytest.warns(FutureWarning, match="grouped_entities"):
        spec = rp.pipeline("ner", model="org/model", grouped_entities=True)
    assert spec.parameters == {"aggregation_strategy": "simple"}
    with pytest.warns(UserWarning, match="timeout has no effect"):
        assert rp.pipeline("object-detection", model="org/model", timeout=5).parameters == {}
    for name in ("output_rle_mask", "output_rle_masks", "output_bboxes_mask"):
        with pytest.warns(UserWarning, match=f"{name} has no effect: results have the run lengths"):
            assert rp.pipeline("mask-generation", model="org/model", **{name: True}).parameters == {}
    with pytest.warns(UserWarning, match="return_tensors has no effect: results are arrays"):
        assert rp.pipeline("feature-extraction", model="org/model", return_tensors=True).parameters == {}
    with pytest.warns(UserWarning, match="num_workers has no effect"):
        rp.pipeline("ner", model="org/model", num_workers=8)


def test_a_generation_config_is_its_fields() -> None:
    fields = {"max_new_tokens": 4, "do_sample": False, "top_k": 7}
    for config in (fields, transformers.GenerationConfig(**fields)):
        spec = rp.pipeline("text-generation", model="org/model", generation_config=config)
        assert spec.parameters == fields
        asked = rp.pipeline("vqa", model="org/model", generation_config=config, top_k=2)
        shared = {"max_new_tokens": 4, "do_sample": False}
        assert asked.parameters == {**shared, "top_k": 2, "generate_kwargs": {"top_k": 7}}
    with pytest.raises(rp.ConfigError, match="generation_config: means max_new_tokens=4, which is given as 5"):
        rp.pipeline("text-generation", model="org/model", generation_config=fields, max_new_tokens=5)
    with pytest.raises(rp.ConfigError, match="generation_config: unknown name"):
        rp.pipeline("text-classification", model="org/model", generation_config=fields)


@pytest.mark.filterwarnings("ignore:parameters.* is an old name:FutureWarning")
def test_old_names_that_belong_together_are_read_together() -> None:
    def strategy(**old: bool) -> Any:
        return rp.pipeline("ner", model="org/model", **old).parameters["aggregation_strategy"]

    assert strategy(grouped_entities=True, ignore_subwords=True) == "first"
    assert strategy(ignore_subwords=True, grouped_entities=True) == "first"
    assert strategy(grouped_entities=True, ignore_subwords=False) == "simple"
    assert strategy(ignore_subwords=True) == strategy(ignore_subwords=True, grouped_entities=False) == "none"
    with pytest.raises(rp.ConfigError, match="grouped_entities: means aggregation_strategy=simple, which is given as"):
        rp.pipeline("ner", model="org/model", grouped_entities=True, aggregation_strategy="max")


def test_groupby_is_refused_by_name() -> None:
    with pytest.raises(
        rp.ConfigError, match=re.escape("workers.chunking: expected auto; got groupby. text-classification makes")
    ):
        rp.pipeline("text-classification", model="x", chunking="groupby")
    with pytest.raises(rp.ConfigError, match=re.escape("workers.stages: excludes workers.chunking: groupby")):
        rp.pipeline("question-answering", model="x", chunking="groupby", stages="fused")
    with pytest.raises(
        rp.ConfigError, match=re.escape("batch.window_chunks: has an effect only where chunks are spread")
    ):
        rp.pipeline("question-answering", model="x", chunking="in_worker", batch={"window_chunks": 3})


@pytest.mark.parametrize("workers", ["serve://app", {"serve": "app"}, {"serve": "serve://app", "timeout_s": 5}])
def test_an_application_may_have_the_rows(workers: Any) -> None:
    assert validate_job({**GOOD, "workers": workers, "serve": {"name": "app"}}).workers.serve == "app"
    assert rp.pipeline("fill-mask", model="org/model", workers=workers).workers.serve == "app"


def test_an_application_is_set_and_unset_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "workers": {"num_gpus": 1}}))
    assert rp.read_job(path, ["workers=serve://app"]).workers.serve == "app"
    path.write_text(yaml.safe_dump({**GOOD, "workers": "serve://app"}))
    assert rp.read_job(path, ["workers.timeout_s=5"]).workers.model_dump(include={"serve", "timeout_s"}) == {
        "serve": "app",
        "timeout_s": 5,
    }
    assert rp.read_job(path, ["workers={}"]).workers.serve is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"workers": "app"}, "workers: expected a mapping, or serve://NAME of a Serve application; got 'app'."),
        ({"workers": "serve://"}, "workers.serve: expected the name of a Serve application; got 'serve://'."),
        ({"workers": {"serve": "app", "num_gpus": 1}}, "workers: num_gpus: excludes serve"),
        ({"workers": {"serve_wait_s": 1}}, "workers: serve_wait_s: has an effect only beside serve."),
        ({"workers": "serve://app", "prediction_type": "infer"}, "workers.serve: excludes a pipeline of your own"),
    ],
)
def test_what_replicas_cannot_do_is_refused_by_name(changes: dict[str, Any], expected: str) -> None:
    (problem,) = problems_of(**changes)
    assert problem.startswith(expected)


def test_what_a_job_says_of_workers_is_said_once() -> None:
    with pytest.raises(rp.ConfigError, match="timeout_s: is given twice"):
        rp.pipeline("fill-mask", model="m", workers={"serve": "app", "timeout_s": 3}, timeout_s=4)
    with pytest.raises(rp.ConfigError, match="which no application serves"):
        rp.pipeline("fill-mask", model=SimpleNamespace(config=None), workers="serve://app")


SEVERAL: dict[str, Any] = {
    "tasks": {
        "sentiment": {"task": "text-classification", "model": "org/a", "parameters": {"top_k": 2}},
        "label": {"task": "image-classification", "inputs": {"image": "picture"}, "batch": {"max_size": 4}},
    },
    "inputs": {"text": "review"},
    "read": {"path": "in"},
    "write": {"path": "out"},
}


def test_each_of_several_tasks_is_a_job_of_its_own() -> None:
    parts = validate_job({**SEVERAL, "batch": {"max_size": 8}}).parts
    assert {name: (part.task, part.output_column, part.inputs) for name, part in parts.items()} == {
        "sentiment": ("text-classification", "sentiment", {"text": "review"}),
        "label": ("image-classification", "label", {"image": "picture"}),
    }
    assert (parts["sentiment"].batch.max_size, parts["label"].batch.max_size) == (8, 4)
    assert parts["sentiment"].model.name == "org/a" and not parts["label"].tasks
    (only,) = validate_job(GOOD).parts.items()
    assert only == ("prediction", validate_job(GOOD))


def test_several_tasks_are_changed_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(SEVERAL))
    job = rp.read_job(path, ["tasks.sentiment.model.dtype=float16", "tasks.label.batch.max_size=2"])
    assert (job.tasks["sentiment"].model.name, job.tasks["sentiment"].model.dtype) == ("org/a", "float16")
    assert job.parts["label"].batch.max_size == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tasks": {"a": {"task": "text-clasification"}}}, 'tasks.a.task: there is no task "text-clasification". Did'),
        ({"tasks": {"a": {"task": "fill-mask", "parameters": {"topk": 1}}}}, "tasks.a.parameters.topk: unknown name."),
        ({"tasks": {"a": {"task": "fill-mask", "modle": "x"}}}, 'tasks.a.modle: unknown name. Did you mean "model"?'),
        ({"tasks": {"error": {"task": "fill-mask"}}}, "tasks.error: is the name of another column"),
        ({"inputs": {"text": "review", "audio": "x"}}, "inputs.audio: none of the tasks has this input."),
        ({"task": "fill-mask", "model": "x"}, "task, model: excludes tasks, each of which has its own."),
        ({"workers": "serve://app"}, "workers.serve: excludes tasks"),
        ({"workers": {"stages": "split"}}, "workers.stages: split: excludes tasks"),
        ({"workers": {"chunking": "groupby"}}, "workers.chunking: groupby: excludes tasks"),
        (
            {"tasks": {"a": {"task": "mine", "model": {"pipeline_class": "a:B"}}}},
            "tasks.a.task: expected a task whose results have a known type; got mine",
        ),
        ({"tasks": {}}, "task: is required; or tasks, if there are several."),
    ],
)
def test_what_several_tasks_cannot_be_is_refused_by_name(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(rp.ConfigError) as error:
        validate_job({**SEVERAL, **changes})
    assert any(problem.startswith(expected) for problem in error.value.problems), error.value.problems


def test_schema_knows_several_tasks() -> None:
    import jsonschema

    schema = json.loads(json.dumps(job_schema()))
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert validator.is_valid(SEVERAL)
    assert not validator.is_valid({key: value for key, value in SEVERAL.items() if key != "tasks"})
    wrong = {**SEVERAL["tasks"], "sentiment": {"task": "text-classification", "parameters": {"topk": 1}}}
    assert not validator.is_valid({**SEVERAL, "tasks": wrong})


@pytest.mark.parametrize(
    ("written", "path"),
    [("s3://bucket/out/", "s3://bucket/out"), ("out", "out"), ("/", "/"), ("memory://", "memory://")],
)
def test_a_last_slash_of_the_output_says_nothing(written: str, path: str) -> None:
    assert validate_job({**GOOD, "write": {"path": written}}).write.path == path


def test_job_of_an_own_class_may_have_parameters_of_its_own() -> None:
    own = {**GOOD, "task": "text-classification", "parameters": {"is_loud": True}}
    job = validate_job({**own, "model": {"name": "m", "pipeline_class": "a:B"}})
    assert job.parameters == {"is_loud": True}
    (problem,) = problems_of(task="text-classification", parameters={"is_loud": True})
    assert problem.startswith("parameters.is_loud: unknown name")
