"""A bound on chunks that overlap by nearly all of them, which tokenizers make all at once."""

from __future__ import annotations

from collections.abc import Callable

from ray_pipelines.errors import InvalidInput

__all__ = ["check_overlap"]


def check_overlap(
    step: int, length: int, num_chars: int, num_tokens: Callable[[], int], most: int, *, reason: str, text: str
) -> None:
    """Refuses a text of which very many chunks would each have little that is new.

    Args:
        step: Tokens that are new in a chunk.
        length: Tokens of a chunk.
        num_chars: Characters of the text.
        num_tokens: Counts its tokens; asked only where there may be too many.
        most: Chunks that may overlap so much.
        reason: What leaves so little, for the message: `question: leaves`.
        text: What the text is: `context`.

    Raises:
        InvalidInput: There would be more.
    """
    # A token has about a character or more; only then is it worth counting them.
    if not 0 < step < length // 4 or num_chars <= most * step:
        return
    found = num_tokens()
    if found > most * step:
        raise InvalidInput(
            f"{reason} {step:,} of a chunk's {length:,} tokens for what is new in it of the {text}, which has "
            f"{found:,}; expected at most {most:,} chunks that overlap so much. Shorten the question, or lower "
            "doc_stride."
        )
