"""Pairs of one text with many others as a model takes them, each text tokenised once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ray_pipelines.errors import RowError, attempt

__all__ = ["PairTokenizer", "Pairs"]

LARGEST_LIMIT = int(1e20)
"""Above this, a tokenizer's `model_max_length` means that nobody knows; transformers then cuts nothing."""
KEPT_SETS = 64
KNOWN_INPUTS = {"input_ids", "token_type_ids", "attention_mask"}

Pairs = list[dict[str, torch.Tensor]]


@dataclass(frozen=True)
class _Frame:
    """What a tokenizer puts around two texts: ids and types before, between and behind them, and the texts' types."""

    ids: tuple[list[int], list[int], list[int]]
    types: tuple[list[int], list[int], list[int]]
    text_types: tuple[int, int]

    @property
    def num_tokens(self) -> int:
        return sum(len(part) for part in self.ids)


class PairTokenizer:
    """Joins the tokens of a text with those of other texts as the tokenizer itself would.

    Pairs of one text with 100 hypotheses have 100 times the same tokens in front. The tokens of both sides are put into
    the frame of special tokens that the tokenizer puts around a pair; first texts are cut where a pair is too long. Of
    the first row, a pair is tokenised in full too; a tokenizer that makes something else of it does all pairs itself.

    Args:
        tokenizer: That of the pipeline.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._seconds: OrderedDict[tuple[str, ...], list[list[int]]] = OrderedDict()
        self._frame = _frame_of(tokenizer)
        self._is_checked = False

    def __call__(self, text: str, others: Sequence[str]) -> Pairs:
        """The model inputs `int64[1, tokens]` of the text with each of the others; cut only in the text."""
        if self._frame is not None:
            pairs = self._joined(self._frame, text, others)
            if self._is_checked or self._are_right(pairs, text, others):
                self._is_checked = True
                return pairs
            self._frame = None
        return self._tokenized(text, others)

    def _joined(self, frame: _Frame, text: str, others: Sequence[str]) -> Pairs:
        first: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        seconds = self._ids_of(tuple(others))
        limit = self._tokenizer.model_max_length
        rooms = [limit - frame.num_tokens - len(second) for second in seconds]
        if limit > LARGEST_LIMIT or any(room < min(len(first), 1) for room in rooms):
            # As with the tokenizer, where one pair cannot be cut to fit, none is; the model's limits are checked later.
            rooms = [len(first)] * len(seconds)
        has_types = "token_type_ids" in self._tokenizer.model_input_names
        pairs = []
        for second, room in zip(seconds, rooms, strict=True):
            kept = first if room >= len(first) else self._cut(first, room)
            ids = [*frame.ids[0], *kept, *frame.ids[1], *second, *frame.ids[2]]
            pair = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
            if has_types:
                of_first, of_second = [frame.text_types[0]] * len(kept), [frame.text_types[1]] * len(second)
                types = [*frame.types[0], *of_first, *frame.types[1], *of_second, *frame.types[2]]
                pair["token_type_ids"] = torch.tensor([types])
            pairs.append(pair)
        return pairs

    def _cut(self, ids: list[int], room: int) -> list[int]:
        return ids[-room:] if self._tokenizer.truncation_side == "left" else ids[:room]

    def _ids_of(self, others: tuple[str, ...]) -> list[list[int]]:
        """The tokens of each hypothesis; those of the sets used last are kept."""
        if others not in self._seconds:
            encoded = self._tokenizer(list(others), add_special_tokens=False, verbose=False)
            self._seconds[others] = encoded["input_ids"]
            if len(self._seconds) > KEPT_SETS:
                self._seconds.popitem(last=False)
        self._seconds.move_to_end(others)
        return self._seconds[others]

    def _are_right(self, pairs: Pairs, text: str, others: Sequence[str]) -> bool:
        expected = self._tokenized(text, others)
        return all(
            one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
            for one, other in zip(pairs, expected, strict=True)
        )

    def _tokenized(self, text: str, others: Sequence[str]) -> Pairs:
        """The pairs as the tokenizer makes them; texts are cut where they are too long, hypotheses never."""
        encoded = _encode_pairs(self._tokenizer, [[text, other] for other in others])
        return [
            {name: torch.tensor([values[index]]) for name, values in encoded.items()} for index in range(len(others))
        ]


def _encode_pairs(tokenizer: Any, pairs: list[list[str]]) -> Any:
    encoded = attempt("preprocess", lambda: tokenizer(pairs, truncation="only_first"))
    if isinstance(encoded, RowError):
        # Some tokenizers refuse to cut a text that is shorter than what they would cut off.
        if "too short" not in encoded.message:
            raise encoded
        return tokenizer(pairs, truncation=False)
    return encoded


def _frame_of(tokenizer: Any) -> _Frame | None:
    """The frame of a pair, or None where this tokenizer does not say which token belongs to which text."""
    if not tokenizer.is_fast or not set(tokenizer.model_input_names) <= KNOWN_INPUTS:
        return None
    encoded = tokenizer("a", "b", return_token_type_ids=True)
    sides = encoded.sequence_ids(0)
    if 0 not in sides or 1 not in sides:
        return None
    first, second = ([index for index, side in enumerate(sides) if side == number] for number in (0, 1))
    if first[-1] > second[0]:
        return None
    places = slice(0, first[0]), slice(first[-1] + 1, second[0]), slice(second[-1] + 1, None)
    ids, types = encoded["input_ids"], encoded["token_type_ids"]
    before, between, behind = (ids[place] for place in places)
    types_before, types_between, types_behind = (types[place] for place in places)
    return _Frame(
        (before, between, behind), (types_before, types_between, types_behind), (types[first[0]], types[second[0]])
    )
