"""One loaded pipeline that answers requests: what stands between the HTTP routes and the device.

    body ─► Call (requests.py) ─► parameters checked (parameters.py) ─► scheduler ─► reply (replies.py)

Knows nothing of HTTP's transport and nothing of Ray; the replica, the tests and a plain process use it alike.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

from ray_pipelines import tasks
from ray_pipelines.engine.batching import OF_TOKENS
from ray_pipelines.engine.exchange import RowAnswers, RowBatch
from ray_pipelines.engine.identity import digest_of
from ray_pipelines.engine.runner import Runner
from ray_pipelines.errors import ConfigError, RowError, RowTooLarge, attempt
from ray_pipelines.media.image import num_pixels
from ray_pipelines.serve.blocks import Blocks
from ray_pipelines.serve.client_json import json_object
from ray_pipelines.serve.config import Serving
from ray_pipelines.serve.cpu import one_at_a_time
from ray_pipelines.serve.fetch import bounded, fetcher
from ray_pipelines.serve.parameters import RequestParameters, client_parameters, parameter_names
from ray_pipelines.serve.refusals import Refused
from ray_pipelines.serve.replies import NUMBER_BYTES, QUICK_BYTES, Payload, check_size, encode, picture_of_depth, reply
from ray_pipelines.serve.requests import Call, parse_body, parse_call
from ray_pipelines.serve.rows import MEDIA
from ray_pipelines.serve.scheduler import Scheduler
from ray_pipelines.serve.totals import check_totals

__all__ = ["Endpoint", "first_values"]

T = TypeVar("T")

EMBEDDING = {"pooling": "mean", "truncation": True}
"""How texts become one vector each, where the endpoint's own parameters do not say."""
MAX_CHARS_A_TOKEN = 50
"""Far more than a token of any text has on average: 4 in English, less in other languages, 10 in indented code."""
DRAWN = ("image-segmentation", "mask-generation", "text-to-audio")
"""Tasks of whose results the answer's pictures and recordings are yet to be made."""


class Endpoint:
    """One model and its task, for many callers.

    Args:
        serving: The specification.
        runner: The executor of the loaded pipeline.
        model_id: What the model is called in answers.
        identity: What of the model determines results (`engine/identity.py`); only rows of jobs with the same are run.
    """

    def __init__(
        self, serving: Serving, runner: Runner, model_id: str, identity: Mapping[str, Any] | None = None
    ) -> None:
        self.serving = serving
        self.task = tasks.get(serving.task)
        self.model_id = model_id
        self.limits = serving.serve.limits
        self.identity = dict(identity or {})
        self.scheduler = Scheduler(runner, serving.serve)
        self.blocks = Blocks(self.scheduler)
        self._vocabulary_size = _vocabulary_size(runner.steps.pipe.model)
        self._max_tokens = min(self.limits.max_tokens, _num_positions(runner.steps.pipe.model) or math.inf)
        self._fetch = fetcher(serving.serve.allowed_hosts, self.limits.max_body_bytes)

    async def parse(self, content_type: str | None, body: bytes) -> Call:
        """The request in a body.

        Raises:
            Refused: It is not one.
        """
        return await self._read(len(body), lambda: self._call(parse_body(self.task, content_type, body)))

    async def parse_object(self, body: bytes, make_inputs: Callable[[dict[str, Any]], Any]) -> tuple[Call, Any]:
        """The request in a JSON object of another protocol, and what else stands in the object.

        Args:
            body: The object.
            make_inputs: Takes the inputs out of the object.

        Raises:
            Refused: It is not one.
        """

        def read() -> tuple[Call, Any]:
            values = json_object(body)
            return self._call({"inputs": make_inputs(values)}), values

        return await self._read(len(body), read)

    async def _read(self, num_bytes: int, function: Callable[[], T]) -> T:
        """`function()`; in a thread of its own where a body is large, may hold files, or a host may be slow."""
        has_files = any(field.modality in (*MEDIA, "chat") for field in self.task.inputs)
        is_quick = num_bytes < QUICK_BYTES and self._fetch is None and not has_files
        return function() if is_quick else await asyncio.to_thread(function)

    def _call(self, values: Mapping[str, Any]) -> Call:
        fetch = bounded(self._fetch, self.limits.max_body_bytes) if self._fetch is not None else None
        call = parse_call(self.task, values, self.limits, fetch)
        check_totals(self.task, call.rows, self.limits)
        return call

    async def answer(self, call: Call, as_picture: bool = False) -> Payload:
        """The answer to a request, in JSON or, where the result is a file, as that.

        Args:
            call: The request.
            as_picture: Of depth-estimation: the picture of the depth alone.

        Raises:
            Refused: The request, the first input that fails, or an answer that would be too large.
        """
        if self.task.name == "feature-extraction":
            features = await self._features(call)
            return await encode(lambda: features, features, self.limits)
        parameters = self.parameters(call.parameters)
        shape: Callable[[Any, Any], Any] = partial(reply, self.task.name)
        if self.task.name == "depth-estimation" and as_picture:
            shape = picture_of_depth
        elif self.task.name == "depth-estimation":
            await asyncio.to_thread(self._check_depths, call.rows)
        results = await self.results(call.rows, parameters)
        validated = self._validated(parameters)

        def shaped() -> Any:
            made = [shape(result, validated) for result in results]
            if not call.is_list:
                return made[0]
            if not all(isinstance(one, dict | list) for one in made):
                raise Refused(422, "inputs: expected one input per request, since the answer is a file.")
            return [one[0] for one in made] if self.task.name == "text-classification" else made

        return await encode(shaped, results, self.limits, is_drawn=self.task.name in DRAWN)

    def _check_depths(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Refuses pictures whose depths would make too large an answer, by their headers alone."""
        pixels = sum(num_pixels(row["image"]) for row in rows if "image" in row)
        advice = "Send a smaller picture, or the header Accept: image/png to get the picture of the depth alone."
        check_size(pixels * NUMBER_BYTES, self.limits, advice)

    def parameters(self, sent: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> RequestParameters:
        """The parameters of a request, checked.

        Raises:
            Refused: 422 with the name of what is wrong.
        """
        own = {**(defaults or {}), **self.serving.parameters}
        if self.task.name == "text-generation" and not (own.keys() | sent.keys()) & {"return_tensors", "return_text"}:
            own.setdefault("return_full_text", False)
        made = client_parameters(self.task, sent, own, self.limits, self._vocabulary_size)
        self._check_stride(made.task.get("stride") or 0)
        return made

    def _check_stride(self, stride: int) -> None:
        """Refuses chunks that overlap by nearly all of them, since the tokenizer makes those of a text at once."""
        length = getattr(self.scheduler.runner.steps.pipe.tokenizer, "model_max_length", 0)
        if stride > max(length // 2, self.serving.parameters.get("stride") or 0):
            raise Refused(
                422, f"parameters.stride: expected at most half of the {length:,} tokens that the model takes."
            )

    async def results(
        self,
        rows: tuple[dict[str, Any], ...],
        parameters: RequestParameters,
        num_tokens: list[int] | None = None,
    ) -> list[Any]:
        """One result per row, as `prediction` would hold them.

        Args:
            rows: The inputs.
            parameters: Of all of them.
            num_tokens: Takes, for each row, how many tokens the model is given of it.

        Raises:
            Refused: The first row that fails.
        """
        runner = self.runner(parameters)
        with one_at_a_time():
            work = [asyncio.ensure_future(self._result(runner, fields, parameters, num_tokens)) for fields in rows]
        try:
            return list(await asyncio.gather(*work))
        finally:
            for one in work:
                one.cancel()

    def runner(self, parameters: RequestParameters) -> Runner:
        """The runner for the parameters of a request.

        Raises:
            Refused: 422: the model does not take them.
        """
        validated = self._validated(parameters)
        made = attempt("preprocess", lambda: self.scheduler.variant(validated, parameters.seed))
        if isinstance(made, RowError):
            raise Refused(422, "parameters: this model does not take these, or not together.")
        return made

    def prepare(self, runner: Runner, fields: Mapping[str, Any], truncate_tokens: int | None = None) -> Any:
        """The chunks of one row, or its `RowError`: decoded, preprocessed and checked; for the CPU thread."""
        bounded = attempt("preprocess", lambda: self._bounded(runner, fields, truncate_tokens))
        item = bounded if isinstance(bounded, RowError) else runner.steps.item_of_fields(bounded)
        if isinstance(item, RowError):
            return item
        most = self.limits.max_chunks
        chunks = attempt("preprocess", lambda: list(itertools.islice(runner.steps.preprocess(item), most + 1)))
        if isinstance(chunks, RowError):
            return chunks
        if len(chunks) > most:
            return RowError("preprocess", "RowTooLarge", f"inputs: one input needs more than {most:,} forwards.")
        if self.task.name == "fill-mask":
            num_results = _num_candidates(runner, chunks)
            if num_results > self.limits.max_results:
                return RowError(
                    "preprocess",
                    "RowTooLarge",
                    f"inputs: expected at most {self.limits.max_results:,} candidates for all masks together; got "
                    f"{num_results:,}. Set top_k lower.",
                )
        if truncate_tokens:
            chunks = [_last_tokens(chunk, truncate_tokens) for chunk in chunks]
        longest = max((_num_tokens(chunk) for chunk in chunks), default=0)
        if longest > self._max_tokens:
            return RowError(
                "preprocess",
                "RowTooLarge",
                f"inputs: expected at most {self._max_tokens:,} tokens; got {longest:,}. {_how_to_shorten(fields)}",
            )
        return chunks

    def _bounded(self, runner: Runner, fields: Mapping[str, Any], truncate_tokens: int | None) -> Mapping[str, Any]:
        """The fields, with texts that the tokenizer cuts anyway cut where no token of theirs can matter any more.

        Raises:
            RowTooLarge: Texts that it does not cut, or the messages of a chat, cannot be as short as the model takes
                them: to find that out by making tokens of a megabyte takes seconds, in which other requests wait.
        """
        steps = runner.steps
        if self.task.chunked or steps.is_generic:
            return fields
        tokenizer = steps.pipe.tokenizer
        names = [name for name, value in fields.items() if self.task.field(name).modality in ("text", "chat")]
        if getattr(steps.parameters, "handle_long_generation", None) == "hole":
            truncate_tokens = truncate_tokens or tokenizer.model_max_length
        most_tokens = min(self._max_tokens, steps.max_tokens or math.inf)
        num_tokens = truncate_tokens or steps.cut_at
        if num_tokens and num_tokens <= most_tokens:
            side = "left" if truncate_tokens else tokenizer.truncation_side
            cut = {name: _cut(fields[name], num_tokens, side) for name in names if isinstance(fields[name], str)}
            fields, names = {**fields, **cut}, [name for name in names if name not in cut]
        most = most_tokens * MAX_CHARS_A_TOKEN
        num_chars = sum(_num_chars(fields[name]) for name in names)
        if num_chars > most:
            raise RowTooLarge(
                f"inputs: expected at most {most:,.0f} characters, as the model takes {most_tokens:,.0f} tokens; got "
                f"{num_chars:,}. {_how_to_shorten(fields)}"
            )
        return fields

    async def embed(self, texts: list[str], parameters: Mapping[str, Any]) -> tuple[list[Any], int]:
        """One vector, `float32[hidden]`, per text, and how many tokens the model was given.

        Raises:
            Refused: A text cannot be embedded.
        """
        asked = self.parameters(parameters, EMBEDDING)
        pooling = asked.task.get("pooling")
        if pooling in (None, "none"):
            asked = RequestParameters({**asked.task, "pooling": "mean"})
        num_tokens: list[int] = []
        return await self.results(tuple({"text": text} for text in texts), asked, num_tokens), sum(num_tokens)

    async def run_rows(self, batch: RowBatch) -> RowAnswers:
        """Results of rows of a batch job, when the device has nothing more urgent to do; some may be handed back.

        Raises:
            ConfigError: The rows are meant for another task or model.
        """
        if tasks.get(batch.task).name != self.task.name:
            raise ConfigError(f"workers.serve: serves {self.task.name}; the job asks for {batch.task}.")
        if batch.identity != digest_of(self.identity):
            raise ConfigError("workers.serve: serves another model, or with other settings, than when the job began.")
        parameters = tasks.validate_parameters(self.task, batch.parameters)
        runner = self.scheduler.variant(parameters, batch.seed, batch.limits)
        items = [partial(_item, runner, batch, row) for row in range(batch.num_rows)]
        results, counters = await self.blocks.run(runner, items, batch.is_alone)
        assert self.task.result_type is not None
        counters.device, counters.dtype = self.scheduler.runner.counters.device, self.scheduler.runner.counters.dtype
        return RowAnswers.of(results, self.task.result_type(parameters), counters)

    def info(self) -> dict[str, Any]:
        """What `/info` says: names, versions and limits; nothing of the machine."""
        return {
            "model_id": self.model_id,
            "pipeline_tag": self.task.name,
            "task": self.task.name,
            "inputs": [{"name": f.name, "modality": f.modality, "required": f.required} for f in self.task.inputs],
            "parameters": list(parameter_names(self.task)),
            "limits": self.limits.model_dump(),
            "framework": "ray_pipelines",
            "version": version("ray-pipelines"),
        }

    def close(self) -> None:
        """Ends the threads."""
        self.scheduler.close()

    async def _result(
        self, runner: Runner, fields: Mapping[str, Any], parameters: RequestParameters, num_tokens: list[int] | None
    ) -> Any:
        def prepared() -> Any:
            chunks = self.prepare(runner, fields, parameters.truncate_tokens)
            if num_tokens is not None and not isinstance(chunks, RowError):
                num_tokens.append(sum(map(_num_tokens, chunks)))
            return chunks

        return await self.scheduler.run(runner, prepared)

    def _validated(self, parameters: RequestParameters) -> Any:
        try:
            return tasks.validate_parameters(self.task, parameters.task)
        except ConfigError as error:
            raise Refused(422, "; ".join(error.problems)[:1000]) from None

    async def _features(self, call: Call) -> Any:
        """Features of one text, token by token as the pipeline gives them; of several, a vector each.

        Rows of unequal length make no array, which is what clients make of the answer.
        """
        sent = dict(call.parameters)
        size = sent.pop("dimensions", None)
        if sent.pop("truncate", None):
            sent["truncation"] = True
        for name, allowed in (
            ("prompt_name", (None,)),
            ("truncation_direction", (None, "right", "Right")),
            ("encoding_format", (None, "float")),
        ):
            if sent.pop(name, None) not in allowed:
                raise Refused(422, f"{name}: is not offered here. Leave it out.")
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise Refused(422, "dimensions: expected a whole number from 1 on.")
        if call.sentences:
            vectors, _ = await self.embed([row.get("text", "") for row in call.rows], {**sent, "normalize": True})
            return _similarities(vectors)
        if call.is_list:
            vectors, _ = await self.embed([row.get("text", "") for row in call.rows], sent)
            return [first_values(vector, size) for vector in vectors]
        (result,) = await self.results(call.rows, self.parameters(sent))
        return [first_values(result, size)]


def first_values(vectors: Any, size: int | None) -> Any:
    """The first `size` values of a vector, or of each of an array `[..., hidden]`; unset, all.

    Raises:
        Refused: 422: there are not so many.
    """
    if size is not None and size > vectors.shape[-1]:
        raise Refused(422, f"dimensions: expected at most the {vectors.shape[-1]:,} that the model's vectors have.")
    return vectors[..., :size]


def _vocabulary_size(model: Any) -> int | None:
    size = getattr(_text_config(model), "vocab_size", None)
    return size if isinstance(size, int) else None


def _num_positions(model: Any) -> int | None:
    """Positions of a model that generates by itself; others are cut or refused by their task."""
    config = _text_config(model)
    size = getattr(config, "max_position_embeddings", None)
    return size if isinstance(size, int) and size > 0 and getattr(model, "can_generate", bool)() else None


def _text_config(model: Any) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def _cut(text: str, num_tokens: int, side: str) -> str:
    """The characters of a text that its first tokens (last, if the `left` side is cut) are made of, and more."""
    num_chars = num_tokens * MAX_CHARS_A_TOKEN
    return text[-num_chars:] if side == "left" else text[:num_chars]


def _num_chars(value: Any) -> int:
    """Characters of a text, or of the texts of a chat."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_num_chars, value))
    return sum(_num_chars(value.get(name)) for name in ("content", "text")) if isinstance(value, Mapping) else 0


def _how_to_shorten(fields: Mapping[str, Any]) -> str:
    is_chat = any(isinstance(value, list) for value in fields.values())
    return "Shorten the messages, or leave old ones out." if is_chat else "Shorten the text, or set truncation."


def _num_candidates(runner: Runner, chunks: list[Any]) -> int:
    """Candidates for all masks of a text."""
    mask = runner.steps.pipe.tokenizer.mask_token_id
    targets = runner.steps.pipe._postprocess_params.get("target_ids")
    top_k: int = runner.steps.parameters.top_k
    num_masks = sum(int((chunk["input_ids"] == mask).sum()) for chunk in chunks)
    return num_masks * (top_k if targets is None else min(top_k, len(targets)))


def _num_tokens(chunk: Any) -> int:
    ids: Any = chunk.get("input_ids") if isinstance(chunk, Mapping) else None
    return int(ids.shape[-1]) if hasattr(ids, "shape") and len(ids.shape) > 1 else 0


def _item(runner: Runner, batch: RowBatch, row: int) -> Any:
    return attempt("decode", lambda: runner.steps.item_of_fields(batch.fields(row)))


def _similarities(vectors: list[Any]) -> list[float]:
    source, *others = vectors
    return [float(source @ other) for other in others]


def _last_tokens(chunk: dict[str, Any], num_tokens: int) -> dict[str, Any]:
    """The chunk with no more than its last `num_tokens` tokens."""
    import torch

    ids = chunk.get("input_ids")
    if ids is None or ids.shape[1] <= num_tokens:
        return chunk
    cut = {name: chunk[name][:, -num_tokens:] for name in OF_TOKENS if name in chunk}
    if "prompt_length" in chunk:
        cut["prompt_length"] = torch.tensor([num_tokens])
    return {**chunk, **cut}
