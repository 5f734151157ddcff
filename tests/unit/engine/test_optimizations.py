"""Cheaper models: int8, packed and compiled, against the same models as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers

import ray_pipelines as rp
from ray_pipelines.config import Job
from ray_pipelines.engine.batching import Padding
from ray_pipelines.engine.optimizations import compiled, packed
from ray_pipelines.engine.optimizations.int8 import Int8Linear
from ray_pipelines.errors import ConfigError, ModelLoadError, RowError
from ray_pipelines.job_file import validate_job
from tests.cases.media import TEXTS, images
from tests.closeness import assert_close

Model = Callable[[str], str]
MIXED = [*TEXTS, "a", "", "so it goes " * 9, "a b c d e f", "of equal length", "equal of length"]
ENCODERS = ("bert-classifier", "roberta-classifier", "distilbert-multilabel")


def results(task: str, folder: str, items: list[Any], **settings: Any) -> list[Any]:
    return rp.pipeline(task, folder, device="cpu", **settings).run(items)


def by_label(results: list[Any]) -> list[dict[str, float]]:
    """Scores by label: where they are nearly the same, their order may change."""
    return [{found["label"]: found["score"] for found in result} for result in results]


# --- int8


def test_int8_layers_are_close_to_the_layers_they_replace() -> None:
    torch.manual_seed(0)
    for bias in (True, False):
        linear = torch.nn.Linear(96, 40, bias=bias)
        inputs = torch.randn(3, 7, 96) * torch.logspace(-3, 3, 7)[:, None]
        expected = linear(inputs)
        made = Int8Linear(linear)(inputs)
        assert made.shape == expected.shape
        assert ((made - expected).abs() <= 0.03 * expected.abs().amax(-1, keepdim=True)).all()


def test_an_int8_token_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    layer = Int8Linear(torch.nn.Linear(64, 64))
    token, huge = torch.randn(1, 64), 1e4 * torch.randn(5, 64)
    assert torch.equal(layer(torch.cat([token, huge]))[:1], layer(token))


def test_an_int8_layer_takes_zeros_and_no_tokens_at_all() -> None:
    linear = torch.nn.Linear(16, 4)
    assert_close(Int8Linear(linear)(torch.zeros(2, 16)).tolist(), linear(torch.zeros(2, 16)).tolist())
    assert Int8Linear(linear)(torch.zeros(0, 16)).shape == (0, 4)


@pytest.mark.parametrize(
    ("task", "name", "items"),
    [
        *(("text-classification", name, TEXTS) for name in ENCODERS),
        ("image-classification", "vit-classifier", images()),
        ("text2text-generation", "t5-text2text", TEXTS[:3]),
    ],
)
def test_int8_models_give_nearly_the_same(task: str, name: str, items: list[Any], model: Model) -> None:
    spec = rp.pipeline(task, model(name), device="cpu", optimize={"int8": True})
    found = spec.run(items)
    layers = [module for module in spec._runner().steps.pipe.model.modules() if isinstance(module, Int8Linear)]
    assert layers
    assert not any(isinstance(result, RowError) for result in found)
    if task != "text2text-generation":
        assert_close(by_label(found), by_label(results(task, model(name), items)), 0.15)
    assert_close(found, results(task, model(name), items, optimize={"int8": True}, batch_size=1), 0.01)


def test_int8_leaves_the_users_own_model_alone(model: Model) -> None:
    folder = model("bert-classifier")
    own = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rp.pipeline("text-classification", own, tokenizer=tokenizer, optimize={"int8": True}).run(TEXTS[:2])
    assert not any(isinstance(module, Int8Linear) for module in own.modules())


def test_int8_refuses_models_that_it_cannot_help(model: Model) -> None:
    with pytest.raises(ModelLoadError, match=r"optimize\.int8: expected a model with linear layers; GPT2LMHead"):
        results("text-generation", model("gpt2-lm"), ["a"], optimize={"int8": True})
    half = transformers.AutoModelForSequenceClassification.from_pretrained(model("bert-classifier")).half()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model("bert-classifier"))
    with pytest.raises(ModelLoadError, match="expected weights in float32"):
        results("text-classification", half, ["a"], tokenizer=tokenizer, optimize={"int8": True})  # type: ignore[arg-type]


# --- packed


@pytest.mark.parametrize("name", ENCODERS)
def test_packed_encoders_give_the_same(name: str, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[tuple[int, ...]] = []
    made = packed.Packing.unpack
    monkeypatch.setattr(
        packed.Packing, "unpack", lambda self, hidden: (lengths.append(self.lengths), made(self, hidden))[1]
    )
    found = results("text-classification", model(name), MIXED, optimize={"packed": True})
    assert any(len(set(batch)) > 1 for batch in lengths)
    assert_close(found, results("text-classification", model(name), MIXED))


@pytest.mark.parametrize(
    ("task", "name"), [("token-classification", "bert-ner"), ("feature-extraction", "bert-features")]
)
def test_packed_tokens_come_back_to_their_places(task: str, name: str, model: Model) -> None:
    assert_close(results(task, model(name), MIXED, optimize={"packed": True}), results(task, model(name), MIXED))


def test_packed_refuses_other_models_by_name(model: Model) -> None:
    with pytest.raises(ModelLoadError, match=r"optimize.packed: expected an encoder .* bert, .*; got vit"):
        results("image-classification", model("vit-classifier"), images(), optimize={"packed": True})


# --- compiled


@pytest.mark.parametrize(
    ("number", "smallest", "expected"), [(1, 1, 1), (7, 1, 8), (13, 1, 16), (16, 16, 16), (65, 16, 96)]
)
def test_shapes_go_up_to_the_next_step(number: int, smallest: int, expected: int) -> None:
    assert compiled.rounded_up(number, smallest) == expected


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def eager(pipe: Any) -> None:
    """Stands in for the compiler, which takes minutes: the same graphs' path, run as it is."""
    pipe.model.compile(backend="eager", dynamic=True)


@pytest.mark.parametrize(
    ("task", "name", "rounds"),
    [
        ("text-classification", "bert-classifier", True),
        ("token-classification", "roberta-ner", True),
        ("text-classification", "distilbert-multilabel", False),
    ],
)
def test_compiled_models_give_the_same_at_any_shape(
    task: str, name: str, rounds: bool, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "compile_model", eager)
    spec = rp.pipeline(task, model(name), device="cpu", optimize={"compile": True}, batch_size=5)
    steps = spec._runner().steps
    assert isinstance(steps, compiled.CompiledSteps)
    steps.rounds_shapes = rounds
    assert_close(spec.run(MIXED), results(task, model(name), MIXED))
    assert steps._widens
    assert spec._runner().counters.num_graphs >= 1
    assert spec._runner().counters.warmup_s > 0


def test_images_of_any_number_share_graphs(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "compile_model", eager)
    spec = rp.pipeline("image-classification", model("vit-classifier"), device="cpu", optimize={"compile": True})
    spec._runner().steps.rounds_shapes = True  # type: ignore[attr-defined]
    pictures = [*images(), *images(), *images()][:7]
    assert_close(spec.run(pictures), results("image-classification", model("vit-classifier"), pictures))


def test_a_graph_that_cannot_be_compiled_is_a_warning(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(compiled, "compile_model", lambda pipe: pipe.model.compile(backend=broken))
    with caplog.at_level(logging.WARNING, logger="ray_pipelines"):
        found = results("text-classification", model("bert-classifier"), TEXTS, optimize={"compile": True})
    assert_close(found, results("text-classification", model("bert-classifier"), TEXTS))
    warnings = [record.message for record in caplog.records if "optimize.compile" in record.message]
    assert len(warnings) == 1
    assert "no such instruction" in warnings[0]


def test_compile_refuses_to_start_without_a_compiler(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ModelLoadError, match=r"expected a C\+\+ compiler on a CPU; there is no 'no-such-compiler'"):
        results("text-classification", model("bert-classifier"), ["a"], optimize={"compile": True})


def test_compile_refuses_tasks_that_generate(model: Model) -> None:
    with pytest.raises(ModelLoadError, match="text-generation generates token by token"):
        results("text-generation", model("gpt2-lm"), ["a"], optimize={"compile": True})


def test_padding_of_compiled_text_goes_where_the_tokenizer_wants_it() -> None:
    ids = torch.tensor([[1, 2, 3]])
    assert compiled._longer("input_ids", ids, 3, 5, Padding({"input_ids": 9})).tolist() == [[1, 2, 3, 9, 9]]
    assert compiled._longer("input_ids", ids, 3, 5, Padding({"input_ids": 9}, left=True)).tolist() == [[9, 9, 1, 2, 3]]


# --- what goes together, and attention


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimize": {"int8": True}, "num_gpus": 1}, "optimize.int8: expected workers on a CPU; got cuda"),
        ({"optimize": {"int8": True}, "device": "cuda:0"}, "optimize.int8: expected workers on a CPU; got cuda:0"),
        ({"optimize": {"int8": True}, "dtype": "bfloat16"}, "optimize.int8: expected model.dtype float32 or unset"),
        ({"optimize": {"int8": True, "compile": True}}, "optimize.compile: excludes optimize.int8"),
        ({"optimize": {"packed": True}, "attn_implementation": "eager"}, "optimize.packed: excludes model.attn"),
        ({"optimize": {"packed": True}, "device_map": "auto"}, "optimize.packed: excludes model.device_map"),
        ({"optimize": {"int4": True}}, "optimize.int4"),
        ({"attn_implementation": "spda"}, 'did you mean "sdpa"'),
        ({"attn_implementation": "org/kernel"}, "set trust_remote_code: true"),
        (
            {"attn_implementation": "sdpa", "model_kwargs": {"attn_implementation": "eager"}},
            "is given in model_kwargs too",
        ),
    ],
)
def test_what_cannot_be_had_together_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        rp.pipeline("text-classification", "org/model", **settings)
    assert message.lower() in str(refused.value).lower()


def test_a_job_file_refuses_the_same() -> None:
    job = {"task": "text-classification", "model": "org/model", "read": {"path": "in"}, "write": {"path": "out"}}
    assert isinstance(validate_job({**job, "optimize": {"int8": True}}), Job)
    with pytest.raises(ConfigError, match=r"optimize\.int8: expected workers on a CPU"):
        validate_job({**job, "optimize": {"int8": True}, "workers": {"num_gpus": 1}})


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_as_asked(attention: str, model: Model) -> None:
    folder = model("bert-classifier")
    spec = rp.pipeline("text-classification", folder, attn_implementation=attention)
    assert_close(spec.run(TEXTS), results("text-classification", folder, TEXTS))
    assert spec._runner().steps.pipe.model.config._attn_implementation == attention
    own = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    spec = rp.pipeline("text-classification", own, tokenizer=tokenizer, attn_implementation=attention)
    assert_close(spec.run(TEXTS), results("text-classification", folder, TEXTS))
    assert spec._runner().steps.pipe.model.config._attn_implementation == attention


@pytest.mark.parametrize(("name", "attention"), [("bert-classifier", "flash_attention_2"), ("fnet-features", "sdpa")])
def test_attention_that_cannot_be_had_is_refused_by_name(name: str, attention: str, model: Model) -> None:
    task = "feature-extraction" if name == "fnet-features" else "text-classification"
    with pytest.raises(ModelLoadError, match=f"model.attn_implementation: expected one that .* got '{attention}'"):
        results(task, model(name), ["a"], attn_implementation=attention)


def test_agreement_is_that_of_the_same_rows_in_float32(model: Model) -> None:
    folder = model("bert-classifier")
    agreement = rp.pipeline("text-classification", folder, dtype="bfloat16").agreement(TEXTS)
    assert agreement.num_rows == len(TEXTS)
    assert 0 < agreement.max_difference < 0.1
    same = rp.pipeline("text-classification", folder, optimize={"packed": True}).agreement(TEXTS)
    assert same.share_equal == 1
    assert same.max_difference < 1e-4
