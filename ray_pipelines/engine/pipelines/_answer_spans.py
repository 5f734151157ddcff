"""Spans of tokens that answer a question: their probabilities, the best of them, and their characters in the context.

Source: transformers 4.57.6, pipelines/question_answering.py (`select_starts_ends`, `decode_spans`, `get_indices`).
What differs: spans that cannot be answers are left out rather than scored 0, equal scores keep the order of their
tokens, the words of tokens are read once per chunk, and spans are found for a batch of chunks on their device: of a
chunk's probabilities only its best spans go any further.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["best_spans", "characters", "probabilities", "token_characters"]

CONTEXT, NO_ANSWER, CLS = 0, 1, 2
"""What a token is to an answer: a part it may have, one it may not, and the token whose span stands for no answer."""

MASKED = -10000.0
NO_WORD = -1


def token_characters(
    offsets: Sequence[tuple[int, int]], words: Sequence[int | None], is_context: np.ndarray
) -> np.ndarray:
    """Where each token, and its word as far as it is in this chunk, start and end: `int32[tokens, 4]`."""
    spans = np.full((len(offsets), 4), NO_WORD, dtype=np.int32)
    spans[:, :2] = offsets
    numbers = np.array(words, dtype=np.float64)
    own = np.flatnonzero(is_context & ~np.isnan(numbers))
    _, first, word = np.unique(numbers[own], return_index=True, return_inverse=True)
    last = np.zeros_like(first)
    last[word] = np.arange(len(own))
    spans[own, 2:] = np.stack([spans[own[first], 0], spans[own[last], 1]], axis=1)[word]
    return spans


def probabilities(
    start: torch.Tensor, end: torch.Tensor, kinds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities of where an answer starts and ends, and the score of there being none.

    The [CLS] token takes part in the softmax; its share is the null score, and then is none of an answer's.

    Args:
        start: Logits `float[batch, tokens]`.
        end: Likewise.
        kinds: What each token is to an answer, `int64[batch, tokens]`: `CONTEXT`, `NO_ANSWER` or `CLS`.

    Returns:
        `float32[batch, tokens]` twice, and `float32[batch]`.
    """
    cannot_be = kinds == NO_ANSWER
    starts, ends = (logits.float().masked_fill(cannot_be, MASKED).softmax(dim=-1) for logits in (start, end))
    null_scores = (starts * ends).masked_fill(kinds != CLS, 0.0).sum(dim=-1)
    return starts, ends, null_scores


def best_spans(
    start: torch.Tensor, end: torch.Tensor, can_answer: torch.Tensor, num_spans: int, max_length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """First and last token and score of the best spans of tokens that can answer, best first, for each chunk.

    Args:
        start: Probability of each token to be the first, `float32[batch, tokens]`.
        end: Probability of each token to be the last.
        can_answer: Whether a token can be in an answer, `bool[batch, tokens]`.
        num_spans: Number of spans at most.
        max_length: Tokens of a span at most.

    Returns:
        First and last token, `int64[batch, spans]`, and the score, `float32[batch, spans]`: -1 where a chunk has no
        more spans, whose tokens say nothing. Of equal scores the earlier tokens come first.
    """
    size, num_tokens = start.shape
    length = min(max_length, num_tokens)
    ends, can_end = (torch.nn.functional.pad(values, (0, length - 1)) for values in (end, can_answer))
    # Column d of a token's row is the span from it over the next d tokens.
    scores = start[:, :, None] * ends.unfold(1, length, 1)
    scores = scores.masked_fill(~(can_answer[:, :, None] & can_end.unfold(1, length, 1)), -1.0).reshape(size, -1)
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    scores, order = scores[:, :num_spans], order[:, :num_spans]
    first = order // length
    return first, (first + order % length).clamp(max=num_tokens - 1), scores


def characters(
    spans: torch.Tensor, first: torch.Tensor, last: torch.Tensor, align_to_words: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where spans of tokens start and end in the context; at whole words, where both of their ends have one.

    Args:
        spans: Of each token, as `token_characters` gives them: `int32[batch, tokens, 4]`.
        first: First token of each span, `int64[batch, spans]`.
        last: Last token likewise.
        align_to_words: Widen spans to whole words.
    """
    begin, stop = spans[..., 0].gather(1, first), spans[..., 1].gather(1, last)
    if not align_to_words:
        return begin, stop
    word_begin, word_stop = spans[..., 2].gather(1, first), spans[..., 3].gather(1, last)
    has_words = (word_begin != NO_WORD) & (word_stop != NO_WORD)
    return torch.where(has_words, word_begin, begin), torch.where(has_words, word_stop, stop)
