"""decision with questions that hold for all rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.pipelines import decision

from ray_pipelines.engine.lengths import max_tokens
from ray_pipelines.errors import InvalidInput, RowTooLarge

__all__ = ["DecisionPipeline"]


class DecisionPipeline(decision.DecisionPipeline):  # type: ignore[misc]
    """Asks each row its own questions, or those of the task."""

    def _sanitize_parameters(
        self, questions: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return ({} if questions is None else {"questions": questions}), {}, {}

    def preprocess(self, request: Mapping[str, Any], questions: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The prompts of a request.

        Raises:
            InvalidInput: Neither the row nor the parameters have questions.
            RowTooLarge: A prompt has more tokens than the model has positions.
        """
        asked = request.get("questions") or questions
        if not asked:
            raise InvalidInput("questions: are set neither for this row nor as a parameter of the task.")
        inputs: dict[str, Any] = super().preprocess({**request, "questions": dict(asked)})
        limit = max_tokens(self.model)
        longest = max(prompt["input_ids"].shape[1] for prompt, _ in inputs["prompts"])
        if limit is not None and longest > limit:
            raise RowTooLarge(f"state: makes a prompt of {longest:,} tokens; the model takes {limit:,}.")
        return inputs
