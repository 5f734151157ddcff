"""summarization: a shorter text of each text, by an encoder-decoder model such as BART or T5.

transformers 5 dropped this task; `engine/pipelines/summarization.py` has it. Bugs of its last release (4.57.6) that are
put right: a `max_length` holds that the user or the model's `task_specific_params` set, rather than lose to 256 new
tokens.
"""

from __future__ import annotations

from ray_pipelines.tasks import Field, Task
from ray_pipelines.tasks._generation import is_sampling
from ray_pipelines.tasks._seq2seq import Seq2SeqParameters, pipeline_parameters, result_type, to_item, to_result


class SummarizationParameters(Seq2SeqParameters):
    """Parameters of summarization."""


TASK = Task(
    name="summarization",
    summary="A shorter text of each text.",
    inputs=(Field("text", "text", "The text to summarize."),),
    parameters=SummarizationParameters,
    result_type=result_type("summary"),
    result_description="list of {summary_text}, or {summary_token_ids} with return_tensors",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    kept_outputs=("output_ids",),
    takes_assistant=True,
    is_random=is_sampling,
)
