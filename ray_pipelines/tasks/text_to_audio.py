"""text-to-audio: speech or music of each text.

A result holds the samples of one clip at its own length, as `float32[samples]` in Python. Rows run one by one, since
transformers' batches give every clip the length of the longest with noise behind (VITS, SpeechT5). A clip of several
channels, as stereo models of music make them, is interleaved as in a WAV file: `audio.reshape(-1, num_channels)`.

Nearly all of these models draw random numbers (noise, sampling, a dropout that stays on); each row has a seed of its
own. A row may bring its voice: `speaker_embeddings` (SpeechT5) or `speaker_id` (VITS), which transformers takes only
for all rows; Bark's voices are `preprocess_params: {voice_preset: v2/en_speaker_6}`.

SpeechT5 makes a spectrogram. Unless `vocoder` names the model that makes sound of it, transformers downloads
`microsoft/speecht5_hifigan` in every worker; where there is no network, give a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from ray_pipelines.tasks import Field, RowCall, Task, require_text
from ray_pipelines.tasks._generation import GenerationParameters, generation_arguments

if TYPE_CHECKING:
    import pyarrow as pa

VOICE = ("speaker_embeddings", "speaker_id")


class TextToAudioParameters(GenerationParameters):
    """Parameters of text-to-audio."""

    forward_params: Annotated[
        dict[str, Any] | None,
        pydantic.Field(description="Arguments of the model's call or `generate`, e.g. {speaking_rate: 0.9}."),
    ] = None
    generate_kwargs: Annotated[
        dict[str, Any] | None,
        pydantic.Field(description="Further arguments of `generate`, over forward_params; for models that generate."),
    ] = None
    preprocess_params: Annotated[
        dict[str, Any] | None,
        pydantic.Field(description="Arguments of the tokenizer or processor, e.g. {voice_preset: v2/en_speaker_6}."),
    ] = None
    speaker_embeddings: Annotated[
        tuple[float, ...] | None,
        pydantic.Field(description="The voice (an x-vector) for rows that bring none of their own; SpeechT5."),
    ] = None
    speaker_id: Annotated[
        int | None,
        pydantic.Field(ge=0, description="The number of the voice for rows that bring none of their own; VITS."),
    ] = None
    vocoder: Annotated[
        str | None,
        pydantic.Field(description="Name or folder of the model that makes sound of a spectrogram; SpeechT5."),
    ] = None


def to_item(fields: Mapping[str, Any]) -> Any:
    """The text, with the row's own voice if it has one."""
    text = require_text(fields["text"])
    voice = {name: fields[name] for name in VOICE if name in fields}
    return RowCall(text, voice) if voice else text


def pipeline_parameters(parameters: TextToAudioParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments: the voice goes with the inputs, generation with the rest of it."""
    arguments: dict[str, Any] = {}
    for name in ("forward_params", "vocoder"):
        if getattr(parameters, name) is not None:
            arguments[name] = getattr(parameters, name)
    voice = {name: getattr(parameters, name) for name in VOICE if getattr(parameters, name) is not None}
    if inputs := {**(parameters.preprocess_params or {}), **voice}:
        arguments["preprocess_params"] = inputs
    if generation := {**(parameters.generate_kwargs or {}), **generation_arguments(parameters)}:
        arguments["generate_kwargs"] = generation
    return arguments


def result_type(parameters: TextToAudioParameters) -> pa.DataType:
    """`struct<audio: list<float>, sampling_rate: int32, num_channels: int32>`."""
    import pyarrow as pa

    clip = [("audio", pa.list_(pa.float32())), ("sampling_rate", pa.int32()), ("num_channels", pa.int32())]
    return pa.struct(clip)


def to_result(result: Any, parameters: TextToAudioParameters) -> dict[str, Any]:
    """`{audio, sampling_rate, num_channels}`, the audio as `float32[samples * num_channels]`, interleaved."""
    import numpy as np

    clip = np.asarray(result["audio"], dtype=np.float32)
    num_channels = clip.shape[0] if clip.ndim == 2 else 1
    audio = np.ascontiguousarray(clip.T).reshape(-1)
    return {"audio": audio, "sampling_rate": result["sampling_rate"], "num_channels": num_channels}


TASK = Task(
    name="text-to-audio",
    aliases=("text-to-speech",),
    summary="Speech or music of each text.",
    inputs=(
        Field("text", "text", "The text to speak, or the description of the music."),
        Field("speaker_embeddings", "any", "The voice of this row: a list of numbers (an x-vector).", required=False),
        Field("speaker_id", "number", "The number of this row's voice.", required=False),
    ),
    parameters=TextToAudioParameters,
    result_type=result_type,
    result_description="{audio, sampling_rate, num_channels}; audio is float32[samples], interleaved if stereo",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    batched=False,
    pipeline_class="ray_pipelines.engine.pipelines.text_to_audio:TextToAudioPipeline",
    is_random=lambda pipe, parameters: True,
)
