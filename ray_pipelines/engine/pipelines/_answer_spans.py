"""Spans of tokens that answer a question: their probabilities, the best of them, and their characters in the context.

Source: transformers 4.57.6, pipelines/question_answering.py (`select_starts_ends`, `decode_spans`, `get_indices`).
What differs: spans that cannot be answers are left out rather than scored 0, equal scores keep the order of their
tokens, and the words of tokens are read once per chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

__all__ = ["best_spans", "characters", "probabilities", "token_characters"]

CONTEXT, NO_ANSWER, CLS = 0, 1, 2
"""What a token is to an answer: a part it may have, one it may not, and the token whose span stands for no answer."""

MASKED = np.float32(-10000.0)
NO_WORD = -1


def token_characters(
    offsets: Sequence[tuple[int, int]], words: Sequence[int | None], is_context: np.ndarray
) -> np.ndarray:
    """Where each token, and its word as far as it is in this chunk, start and end: `int32[tokens, 4]`."""
    spans = np.full((len(offsets), 4), NO_WORD, dtype=np.int32)
    spans[:, :2] = offsets
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    for index in np.flatnonzero(is_context).tolist():
        word = words[index]
        if word is not None:
            starts.setdefault(word, offsets[index][0])
            ends[word] = offsets[index][1]
    for index in np.flatnonzero(is_context).tolist():
        word = words[index]
        if word is not None:
            spans[index, 2:] = starts[word], ends[word]
    return spans


def probabilities(start: torch.Tensor, end: torch.Tensor, p_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Probabilities of where an answer starts and ends, `float32[tokens]` each, and the score of there being none.

    The [CLS] token takes part in the softmax; its share is the null score, and then is none of an answer's.
    """
    probabilities = []
    for logits in (start, end):
        masked = np.where(p_mask == NO_ANSWER, MASKED, logits.float().numpy())
        exponentials = np.exp(masked - masked.max())
        probabilities.append(exponentials / exponentials.sum())
    is_cls = p_mask == CLS
    null_score = float((probabilities[0][is_cls] * probabilities[1][is_cls]).sum())
    return probabilities[0], probabilities[1], null_score


def best_spans(
    start: np.ndarray, end: np.ndarray, can_answer: np.ndarray, num_spans: int, max_length: int
) -> Iterator[tuple[int, int, float]]:
    """First and last token and score of the best spans of tokens that can answer, best first.

    Args:
        start: Probability of each token to be the first, `float32[tokens]`.
        end: Probability of each token to be the last.
        can_answer: Whether a token can be in an answer, `bool[tokens]`.
        num_spans: Number of spans at most.
        max_length: Tokens of a span at most.
    """
    tokens = np.flatnonzero(can_answer)
    scores = np.outer(start[tokens], end[tokens])
    distances = tokens[None, :] - tokens[:, None]
    scores = np.where((distances >= 0) & (distances < max_length), scores, -1).ravel()
    for index in np.argsort(-scores, kind="stable")[:num_spans]:
        if scores[index] < 0:
            return
        first, last = divmod(int(index), len(tokens))
        yield int(tokens[first]), int(tokens[last]), float(scores[index])


def characters(spans: np.ndarray, first: int, last: int, align_to_words: bool) -> tuple[int, int]:
    """Where a span of tokens starts and ends in the context; at whole words, where both of its ends have one."""
    begin, stop = int(spans[first, 2]), int(spans[last, 3])
    if align_to_words and begin != NO_WORD and stop != NO_WORD:
        return begin, stop
    return int(spans[first, 0]), int(spans[last, 1])
