"""table-question-answering that takes bfloat16."""

from __future__ import annotations

from typing import Any

import transformers

__all__ = ["TableQuestionAnsweringPipeline"]


class TableQuestionAnsweringPipeline(transformers.TableQuestionAnsweringPipeline):  # type: ignore[misc]
    """Answers from tables, as in transformers, whose step after the model needs numpy, which has no bfloat16."""

    def postprocess(self, model_outputs: dict[str, Any]) -> Any:
        """The answers to the questions about one table."""
        outputs = model_outputs["outputs"]
        if self.type == "tapas":
            outputs = tuple(logits.float() for logits in outputs[:2])
        return super().postprocess({**model_outputs, "outputs": outputs})
