"""Every argument of transformers' `pipeline()` has its place, and models come pinned from a hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import ray_pipelines as rp
from ray_pipelines.engine.hub import resolve
from ray_pipelines.engine.precision import cheaper_setting, is_fast
from tests.cases.media import TEXTS
from tests.closeness import assert_close
from tests.hub_server import hub_server

Model = Callable[[str], str]


class ShoutingPipeline(transformers.TextClassificationPipeline):
    """A user's own pipeline."""

    def postprocess(self, *args: Any, **kwargs: Any) -> Any:
        return [{**label, "label": label["label"].upper()} for label in super().postprocess(*args, **kwargs)]


def test_objects_names_and_paths_give_the_same(model: Model) -> None:
    folder = model("bert-classifier")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = rp.pipeline("text-classification", model=folder).run(TEXTS)
    variants: list[dict[str, Any]] = [
        {"model": Path(folder)},
        {"model": loaded, "tokenizer": tokenizer},
        {"model": folder, "tokenizer": folder, "config": folder},
        {"model": folder, "device": "cpu", "use_fast": True, "dtype": torch.float32},
        {"model": folder, "device": -1, "model_kwargs": {"attn_implementation": "eager"}},
    ]
    for arguments in variants:
        assert_close(rp.pipeline("sentiment-analysis", **arguments).run(TEXTS), expected)


def test_dtype_is_that_of_the_weights(model: Model) -> None:
    spec = rp.pipeline("text-classification", model=model("bert-classifier"), dtype="bfloat16")
    results = spec.run(TEXTS)
    assert spec._runner().steps.pipe.dtype is torch.bfloat16
    assert_close(results, rp.pipeline("text-classification", model=model("bert-classifier")).run(TEXTS), 0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_precision_without_instructions_is_warned_of(
    dtype: str, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    spec = rp.pipeline("text-classification", model=model("bert-classifier"), dtype=dtype, device="cpu")
    spec.run(TEXTS[:1])
    warned = "has no instructions for " + dtype in caplog.text
    assert warned is not is_fast(getattr(torch, dtype), torch.device("cpu"))


def test_a_gpu_has_instructions_for_16_bits() -> None:
    assert is_fast(torch.bfloat16, torch.device("cuda")) and is_fast(torch.float32, torch.device("cpu"))
    assert cheaper_setting(torch.device("cuda")) == "model.dtype: bfloat16"


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_no_precision_is_that_of_the_checkpoint(name: str, recwarn: pytest.WarningsRecorder) -> None:
    assert rp.pipeline("text-classification", model="org/name", **{name: None}).model.dtype == "auto"
    assert (
        rp.pipeline("text-classification", model="org/name", dtype="float16", use_auth_token=None).model.token is None
    )
    assert not recwarn.list


def test_old_names_are_accepted_with_a_warning(model: Model) -> None:
    with pytest.warns(FutureWarning, match="torch_dtype is the old name of dtype"):
        spec = rp.pipeline("text-classification", model=model("bert-classifier"), torch_dtype=torch.float16)
    assert spec.model.dtype == "float16"
    with pytest.warns(FutureWarning, match="use_auth_token is the old name of token"):
        spec = rp.pipeline("text-classification", model=model("bert-classifier"), use_auth_token="hf_x")
    assert spec.model.token is not None
    with pytest.raises(rp.ConfigError, match='framework: expected "pt"'):
        rp.pipeline("text-classification", framework="tf")


def test_own_pipeline_gets_all_that_its_model_gives(model: Model) -> None:
    """The task's own pipeline needs less than that of transformers, whose postprocessing looks for the sequence."""
    spec = rp.pipeline(
        "zero-shot-classification",
        model=model("bert-nli"),
        pipeline_class=transformers.ZeroShotClassificationPipeline,
        candidate_labels=["sport", "news"],
    )
    (result,) = spec.run(["a text"])
    assert not isinstance(result, rp.RowError), result
    assert sorted(result["labels"]) == ["news", "sport"]


def test_own_pipeline_class_is_hosted(model: Model) -> None:
    folder = model("bert-classifier")
    for reference in (ShoutingPipeline, f"{__name__}:ShoutingPipeline"):
        spec = rp.pipeline("text-classification", model=folder, pipeline_class=reference, top_k=1)
        plain = rp.pipeline("text-classification", model=folder, top_k=1).run(TEXTS)
        shouted = [[{**label, "label": label["label"].upper()} for label in result] for result in plain]
        assert_close(spec.run(TEXTS), shouted)
    with pytest.raises(rp.ConfigError, match="cannot import 'nowhere:Nothing'"):
        rp.pipeline("text-classification", model=folder, pipeline_class="nowhere:Nothing").run(["a"])


CUSTOM_PIPELINE = """
from transformers import Pipeline

class LengthPipeline(Pipeline):
    def _sanitize_parameters(self, **kwargs):
        return {}, {}, {}

    def preprocess(self, text):
        return self.tokenizer(text, return_tensors="pt")

    def _forward(self, inputs):
        return {"length": inputs["input_ids"].shape[1], "logits": self.model(**inputs).logits}

    def postprocess(self, outputs):
        return {"length": outputs["length"]}
"""


def with_custom_pipeline(model_folder: str, folder: Path, task: str) -> Path:
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["custom_pipelines"] = {task: {"impl": "length.LengthPipeline", "pt": ["AutoModelForSequenceClassification"]}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "length.py").write_text(CUSTOM_PIPELINE)
    return folder


def test_custom_pipeline_of_the_hub_runs_only_if_trusted(model: Model, tmp_path: Path) -> None:
    folder = with_custom_pipeline(model("bert-classifier"), tmp_path / "custom", "text-length")
    with pytest.raises(rp.ConfigError, match='no task "text-length"'):
        rp.pipeline("text-length", model=str(folder))
    spec = rp.pipeline("text-length", model=str(folder), trust_remote_code=True)
    assert spec.run(["a", "a a a a"]) == [{"length": 3}, {"length": 6}]


@pytest.mark.parametrize("task", ["sentiment-analysis", "text-classification", "summarization"])
def test_custom_pipeline_of_the_hub_takes_the_place_of_a_known_one(model: Model, tmp_path: Path, task: str) -> None:
    """Also of one that is this project's own, and under an alias; rows of several lengths do not mix."""
    folder = with_custom_pipeline(model("bert-classifier"), tmp_path / task, task)
    with pytest.raises(rp.ModelLoadError, match="trust_remote_code"):
        rp.pipeline(task, model=str(folder)).run(["a"])
    spec = rp.pipeline(task, model=str(folder), trust_remote_code=True, pipeline_class=None)
    pipe = spec._runner().steps.pipe
    assert type(pipe).__name__ == "LengthPipeline"
    if task != "summarization":
        assert spec.run(["a", "a a a a"]) == [[{"length": 3}], [{"length": 6}]]


class LastLetterPipeline(transformers.Pipeline):
    """Its `__call__` sets a parameter for each row, and does something with the result."""

    def _sanitize_parameters(self, letter: Any = None, mark: Any = None, **_: Any) -> Any:
        given = {"letter": letter, "mark": mark}
        return {}, {}, {name: value for name, value in given.items() if value is not None}

    def __call__(self, text: str, **parameters: Any) -> Any:
        return [super().__call__(text, letter=text[-1], **parameters)]

    def preprocess(self, text: str) -> Any:
        return self.tokenizer(text, return_tensors="pt")

    def _forward(self, inputs: Any) -> Any:
        return self.model(**inputs)

    def postprocess(self, outputs: Any, letter: str = "", mark: str = "") -> Any:
        return letter + mark


@pytest.mark.parametrize("task", ["my-task", "text-classification"])
def test_own_call_is_called_as_a_whole_for_each_row(model: Model, task: str) -> None:
    spec = rp.pipeline(task, model=model("bert-classifier"), pipeline_class=LastLetterPipeline, mark="!")
    assert spec.run(["ab", "c", "a b c d"]) == [["b!"], ["c!"], ["d!"]]


class BarePipeline(LastLetterPipeline):
    """Its chunks are no mappings."""

    __call__ = transformers.Pipeline.__call__

    def preprocess(self, text: str) -> Any:
        return [text] if len(text) > 1 else text

    def _forward(self, inputs: Any) -> Any:
        return len(inputs)

    def postprocess(self, outputs: Any) -> Any:
        return outputs


@pytest.mark.parametrize("task", ["my-task", "text-classification"])
def test_own_chunks_need_not_be_mappings(model: Model, task: str) -> None:
    spec = rp.pipeline(task, model=model("bert-classifier"), pipeline_class=BarePipeline)
    assert spec.run(["ab", "c", "a b c d", "ef"]) == [1, 1, 1, 1]


def test_model_that_cannot_be_loaded_is_refused_with_its_reason(model: Model, tmp_path: Path) -> None:
    with pytest.raises(rp.ModelLoadError, match="cannot be loaded for fill-mask"):
        rp.pipeline("fill-mask", model=model("vit-classifier")).run(["a"])
    with pytest.raises(rp.ConfigError, match="there is no folder"):
        rp.pipeline("fill-mask", model=str(tmp_path / "nothing")).run(["a"])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(rp.ModelLoadError):
        rp.pipeline("fill-mask", model=str(tmp_path)).run(["a"])


def in_fresh_process(code: str, home: Path, url: str, **environment: str) -> Any:
    """What `code` leaves in `result`, run with an empty cache against the hub at `url`."""
    script = f"{code}\nimport json\nprint('RESULT', json.dumps(result))"
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))},
        "HF_HOME": str(home),
        "HF_ENDPOINT": url,
        "CUDA_VISIBLE_DEVICES": "",
        **environment,
    }
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], env=env, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout + done.stderr
    return json.loads(lines[0].removeprefix("RESULT "))


def test_hub_model_is_pinned_staged_once_and_then_offline(model: Model, tmp_path: Path) -> None:
    folder = Path(model("bert-classifier"))
    code = """
import ray_pipelines as rp
from ray_pipelines import tasks
from ray_pipelines.config import ModelConfig
from ray_pipelines.engine.hub import resolve_model
from ray_pipelines.engine.load import load_pipeline
task = tasks.get("text-classification")
pinned = resolve_model(task.name, ModelConfig(name="org/tiny", revision="main"))
for _ in range(2):
    pipe = load_pipeline(task, pinned, tasks.validate_parameters(task, {}), device="cpu", offline=True)
result = [pinned.sources["name"].commit, pipe("a", top_k=1)[0]["label"], str(pinned), pinned.num_bytes]
"""
    with hub_server({"org/tiny": folder}) as server:
        commit, label, shown, num_bytes = in_fresh_process(code, tmp_path / "home", server.url)
        assert commit == server.commit("org/tiny")
        assert shown == f"org/tiny@{commit[:12]}"
        assert label == rp.pipeline("text-classification", model=str(folder)).run(["a"])[0][0]["label"]
        weights = [path for method, path in server.requests if method == "GET" and path.endswith("model.safetensors")]
        assert len(weights) == 1
        assert num_bytes == (folder / "model.safetensors").stat().st_size == resolve(str(folder)).num_bytes
        before = len(server.requests)
        offline = in_fresh_process(code, tmp_path / "home", server.url, HF_HUB_OFFLINE="1")
        assert (offline[0], offline[3]) == (commit, num_bytes)
        assert len(server.requests) == before


def test_several_processes_stage_a_model_once(model: Model, tmp_path: Path) -> None:
    code = """
import sys
from ray_pipelines.engine.hub import resolve, stage
result = str(stage(resolve("org/tiny")))
"""
    with hub_server({"org/tiny": Path(model("bert-classifier"))}) as server:
        env = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0"}
        # A node that preprocesses has no use for weights; if it gets a worker later, they follow.
        without = code.replace('"))', '"), weights=False)')
        subprocess.run([sys.executable, "-c", without], env=env, check=True)
        assert not [path for method, path in server.requests if method == "GET" and "model.safetensors" in path]
        running = [subprocess.Popen([sys.executable, "-c", code], env=env) for _ in range(3)]
        assert [process.wait() for process in running] == [0, 0, 0]
        weights = [path for method, path in server.requests if method == "GET" and path.endswith("model.safetensors")]
        assert len(weights) == 1


RESOLVE = """
from ray_pipelines.engine.hub import resolve
from ray_pipelines.errors import RayPipelinesError
result = []
for name, revision, token in QUESTIONS:
    try:
        result.append(str(resolve(name, revision, token).commit))
    except RayPipelinesError as error:
        result.append(f"{type(error).__name__}: {error}")
"""


def test_hub_problems_are_named(model: Model, tmp_path: Path) -> None:
    questions = [
        ("org/none", None, None),
        ("org/tiny", "v9", "hf_ok"),
        ("org/tiny", None, "hf_ok"),
        ("a b", None, None),
    ]
    with hub_server({"org/tiny": Path(model("bert-classifier"))}, token="hf_ok") as server:
        results = in_fresh_process(RESOLVE.replace("QUESTIONS", repr(questions)), tmp_path, server.url)
        assert "the hub has no such model, or it is private. Check the id and HF_TOKEN." in results[0]
        assert "the hub has no such revision" in results[1]
        assert results[2] == server.commit("org/tiny")
        assert results[3].startswith("ConfigError: model.name:")
    assert all("hf_ok" not in text for text in results)


def test_hub_out_of_reach_is_named(tmp_path: Path) -> None:
    questions = [("org/tiny", None, None)]
    (result,) = in_fresh_process(RESOLVE.replace("QUESTIONS", repr(questions)), tmp_path, "http://127.0.0.1:9")
    assert "the hub cannot be reached" in result


def test_a_model_without_a_mask_token_is_refused_for_fill_mask(model: Model) -> None:
    with pytest.raises(rp.ModelLoadError, match="fill-mask: The tokenizer does not define"):
        rp.pipeline("fill-mask", model=model("gpt2-lm"), device="cpu").run(["a"])
