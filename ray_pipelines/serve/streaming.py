"""Generation token by token: what `stream: true`, chats and `details` are made of.

`generate` runs on the device thread as one call; a streamer hands each token to the event loop, with its log
probability, and as the text that it adds. Once nobody listens any more, or the request's time is up, the call is
dropped, and with it the generation (`stopping.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import LogitsProcessor
from transformers.generation.streamers import BaseStreamer

from ray_pipelines.engine.batching import cost
from ray_pipelines.errors import RowError
from ray_pipelines.serve.parameters import RequestParameters
from ray_pipelines.serve.refusals import Refused, refusal_of

if TYPE_CHECKING:
    from ray_pipelines.serve.endpoint import Endpoint

__all__ = ["Ended", "StopTexts", "TextPieces", "Token", "generate"]

STREAMING_TASKS = ("text-generation", "image-text-to-text")
FinishReason = Literal["eos_token", "stop_sequence", "length"]


@dataclass(frozen=True)
class Token:
    """One generated token.

    Attributes:
        id: Its number in the vocabulary.
        text: What it adds to the text; empty for special tokens and inside of a character of several tokens.
        logprob: The logarithm of its probability, after the parameters that change probabilities.
        special: Whether it is a special token.
    """

    id: int
    text: str
    logprob: float
    special: bool


@dataclass(frozen=True)
class Ended:
    """A generation is over.

    Attributes:
        text: All that was generated.
        rest: The end of it, where the last token left a character incomplete.
        finish_reason: Why it is over.
        num_tokens: Generated tokens.
        num_prompt_tokens: Tokens of the prompt.
    """

    text: str
    rest: str
    finish_reason: FinishReason
    num_tokens: int
    num_prompt_tokens: int


async def generate(
    endpoint: Endpoint, fields: Mapping[str, Any], parameters: RequestParameters
) -> AsyncGenerator[Token | Ended, None]:
    """The tokens of one generated text as they come, and how it ended.

    Leaving the iteration stops the generation at its next token.

    Raises:
        Refused: The task does not generate texts token by token, or the input cannot be processed.
    """
    if endpoint.task.name not in STREAMING_TASKS:
        raise Refused(422, f"stream: {endpoint.task.name} does not stream.")
    for name in ("num_beams", "num_return_sequences"):
        if (parameters.task.get(name) or 1) > 1:
            raise Refused(422, f"parameters.{name}: expected 1, since tokens come one at a time.")
    runner = endpoint.runner(parameters)
    truncate = parameters.truncate_tokens
    is_random = runner.steps.is_random
    endpoint.scheduler.admit()
    chunks = None if is_random else await endpoint.scheduler.on_cpu(lambda: endpoint.prepare(runner, fields, truncate))
    listener = _Listener(runner)

    def run() -> Any:
        made = endpoint.prepare(runner, fields, truncate) if chunks is None else chunks
        if isinstance(made, RowError):
            raise made
        (chunk,) = made
        with torch.inference_mode():
            return listener.run(chunk)

    prompt_cost = sum(map(cost, chunks)) if isinstance(chunks, list) else 0
    task = asyncio.create_task(endpoint.scheduler.call(run, prompt_cost + runner.steps.extra_cost))
    deadline = asyncio.get_running_loop().call_later(endpoint.serving.serve.timeout_s, listener.expire)

    def done(task: asyncio.Task[Any]) -> None:
        deadline.cancel()
        listener.put_end()
        if not task.cancelled():
            # Nobody may be there to await it; asyncio would log that.
            task.exception()

    task.add_done_callback(done)
    try:
        while (token := await listener.queue.get()) is not None:
            yield token
        if listener.is_late:
            raise Refused(504, "The generation took too long.", "incomplete_generation")
        made = await task
        if isinstance(made, RowError):
            raise refusal_of(made)
        yield listener.ended()
    finally:
        deadline.cancel()
        if not task.done():
            task.cancel()


class _Listener(BaseStreamer, LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """Hears of each token from inside of `generate`, in the device thread."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.queue: asyncio.Queue[Token | None] = asyncio.Queue()
        self.is_late = False
        self._loop = asyncio.get_running_loop()
        self._tokenizer = runner.steps.pipe.tokenizer
        self._special = set(self._tokenizer.all_special_ids)
        self._pieces = TextPieces(self._decode)
        self._scores: Any = None
        self._ids: list[int] = []
        self._num_prompt_tokens = 0
        self._rest = ""
        self._is_prompt = True

    def run(self, chunk: Mapping[str, Any]) -> Any:
        """Generates from one chunk of model inputs."""
        self._num_prompt_tokens = int(chunk["input_ids"].shape[1])
        steps = self.runner.steps.with_generation_arguments(streamer=self, logits_processor=[self._watch_scores])
        return steps.forward(chunk)

    def _watch_scores(self, input_ids: Any, scores: Any) -> Any:
        self._scores = scores
        return scores

    def put(self, value: Any) -> None:
        """One token; first the prompt."""
        if self._is_prompt:
            self._is_prompt = False
            return
        for token in value.reshape(-1).tolist():
            self._ids.append(token)
            is_special = token in self._special
            logprob = float(torch.log_softmax(self._scores[0].float(), dim=-1)[token])
            self._hand_on(Token(token, self._pieces.add(token), logprob, is_special))

    def end(self) -> None:
        """The generation is over."""
        self._rest = self._pieces.rest()

    def expire(self) -> None:
        """The time is up, whether the generation runs or still waits for the device."""
        self.is_late = True
        self.put_end()

    def put_end(self) -> None:
        """Nothing more will come."""
        self.queue.put_nowait(None)

    def ended(self) -> Ended:
        """How the generation ended."""
        config = self.runner.steps.pipe.model.generation_config
        ends = config.eos_token_id
        end_ids = {ends} if isinstance(ends, int) else set(ends or ())
        raw = self._tokenizer.decode(self._ids, clean_up_tokenization_spaces=False)
        stops = self.runner.steps.parameters.model_dump(include={"stop_sequence", "stop_strings"})
        texts = [stop for value in stops.values() for stop in ([value] if isinstance(value, str) else value or [])]
        reason: FinishReason = "length"
        if self._ids and self._ids[-1] in end_ids:
            reason = "eos_token"
        elif any(stop in raw for stop in texts):
            reason = "stop_sequence"
        return Ended(self._pieces.text, self._rest, reason, len(self._ids), self._num_prompt_tokens)

    def _decode(self, ids: Sequence[int]) -> str:
        skip = getattr(self.runner.steps.parameters, "skip_special_tokens", True)
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip))

    def _hand_on(self, token: Token) -> None:
        self._loop.call_soon_threadsafe(self.queue.put_nowait, token)


class TextPieces:
    """The text that each token adds, decoded in a short window rather than from the beginning.

    A character of several tokens is given once it is whole.

    Args:
        decode: Gives the text of token ids.
    """

    def __init__(self, decode: Any) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = self._read = 0
        self.text = ""

    def add(self, token: int) -> str:
        """The text that `token` adds; empty while a character is incomplete."""
        self._ids.append(token)
        before = self._decode(self._ids[self._start : self._read])
        after = self._decode(self._ids[self._start :])
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return ""
        return self._give(after[len(before) :])

    def rest(self) -> str:
        """What was held back, at the end."""
        before = self._decode(self._ids[self._start : self._read])
        return self._give(self._decode(self._ids[self._start :])[len(before) :])

    def _give(self, piece: str) -> str:
        self._start, self._read = self._read, len(self._ids)
        self.text += piece
        return piece


class StopTexts:
    """Cuts a stream of texts before the first of some stop texts, which may come in pieces.

    >>> stop = StopTexts(["END"])
    >>> stop.add("one E"), stop.add("ND two"), stop.rest()
    ('one ', '', '')

    Args:
        stops: The texts.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.is_stopped = False

    def add(self, text: str) -> str:
        """What may be shown now."""
        if self.is_stopped:
            return ""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.is_stopped = True
            shown, self._held = self._held[: min(places)], ""
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def rest(self) -> str:
        """What was held back, at the end."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
