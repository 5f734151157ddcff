"""text2text-generation: texts generated from texts by an encoder-decoder model such as T5.

transformers 5 dropped this task; `engine/pipelines/text2text_generation.py` has it. One bug of its last release
(4.57.6) is put right: a `max_length` that the user sets holds, rather than lose to 256 new tokens.
"""

from __future__ import annotations

from ray_pipelines.tasks import Field, Task
from ray_pipelines.tasks._generation import is_sampling
from ray_pipelines.tasks._seq2seq import Seq2SeqParameters, pipeline_parameters, result_type, to_item, to_result


class Text2TextGenerationParameters(Seq2SeqParameters):
    """Parameters of text2text-generation."""


TASK = Task(
    name="text2text-generation",
    summary="Texts generated from texts by an encoder-decoder model.",
    inputs=(Field("text", "text", "The text, with whatever instruction the model was trained for."),),
    parameters=Text2TextGenerationParameters,
    result_type=result_type("generated"),
    result_description="list of {generated_text}, or {generated_token_ids} with return_tensors",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    kept_outputs=("output_ids",),
    takes_assistant=True,
    is_random=is_sampling,
)
