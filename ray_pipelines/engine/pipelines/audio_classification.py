"""audio-classification that refuses recordings without a single frame, which padding would give some."""

from __future__ import annotations

from typing import Any

import transformers

from ray_pipelines.engine.pipelines._frames import check_length

__all__ = ["AudioClassificationPipeline"]


class AudioClassificationPipeline(transformers.AudioClassificationPipeline):  # type: ignore[misc]
    """Labels of each recording, as in transformers."""

    def preprocess(self, inputs: Any, **parameters: Any) -> Any:
        """The model inputs of a recording.

        Raises:
            InvalidInput: It is too short for a single frame.
        """
        encoded = super().preprocess(inputs, **parameters)
        if self.model.main_input_name == "input_values" and hasattr(self.model, "_get_feat_extract_output_lengths"):
            check_length(self.model, encoded["input_values"].shape[-1])
        return encoded
