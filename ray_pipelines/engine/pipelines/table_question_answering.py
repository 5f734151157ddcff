"""table-question-answering that takes bfloat16, and says what sequential questions cannot be asked about."""

from __future__ import annotations

from typing import Any

import transformers

from ray_pipelines.errors import InvalidInput

__all__ = ["TableQuestionAnsweringPipeline"]


class TableQuestionAnsweringPipeline(transformers.TableQuestionAnsweringPipeline):  # type: ignore[misc]
    """Answers from tables, as in transformers, whose step after the model needs numpy, which has no bfloat16."""

    def sequential_inference(self, **inputs: Any) -> Any:
        """The logits of questions that are asked one after the other.

        Raises:
            InvalidInput: The table is too long for all of them: more of it is cut for one than for the next.
        """
        try:
            return super().sequential_inference(**inputs)
        except KeyError as error:
            raise InvalidInput(
                "table: is cut to other rows for each question, so that none can follow from the last. Shorten it."
            ) from error

    def postprocess(self, model_outputs: dict[str, Any]) -> Any:
        """The answers to the questions about one table."""
        outputs = model_outputs["outputs"]
        if self.type == "tapas":
            outputs = tuple(logits.float() for logits in outputs[:2])
        return super().postprocess({**model_outputs, "outputs": outputs})
