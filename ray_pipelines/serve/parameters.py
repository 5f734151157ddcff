"""What a client may set: the task's own parameters, under the names that clients use, within limits.

Nothing unknown is handed on. Left out of what a task has are parameters that reach into libraries (dictionaries of
further arguments, among which `generate` takes `custom_generate`: code to run), that name files or repositories, or
that change the process for others.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from ray_pipelines import tasks
from ray_pipelines.errors import ConfigError
from ray_pipelines.serve.client_json import safe_value
from ray_pipelines.serve.config import ClientLimits
from ray_pipelines.serve.refusals import Refused
from ray_pipelines.tasks import Task
from ray_pipelines.tasks._generation import GenerationParameters
from ray_pipelines.tasks._old_names import modern_parameters

__all__ = ["RequestParameters", "client_parameters", "parameter_names"]

DENIED = {
    # files, programs, repositories, compilers
    "vocoder", "tesseract_config", "assistant_model", "disable_compile", "timeout", "precision",
    # memory that is asked for, whatever the input
    "use_cache", "cache_implementation", "return_legacy_cache", "max_cache_len", "prefill_chunk_size",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate",
    # speculative decoding, which the operator sets up
    "use_mtp", "is_assistant", "prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight", "speculation_type", "token_healing",
    # what the model's own files say better; a factor to the power of a length
    "pad_token_id", "decoder_start_token_id", "exponential_decay_length_penalty",
}  # fmt: skip
DICTIONARIES = {"tools", "documents", "questions", "generate_kwargs"}
"""Parameters made of dictionaries that hold texts and numbers only; `generate_kwargs` is read key by key."""
SPEECH_ARGUMENTS = {"language", "task"}

FLATTENED = ("generate_parameters", "generation_parameters", "generation_config", "generate_kwargs")
"""Keys below which clients put parameters of generation."""
RENAMED = {
    "stop": "stop_sequence",
    "labels": "candidate_labels",
    "word_boxes": "word_boxes",
}
TGI_ONLY = {
    "details",
    "decoder_input_details",
    "seed",
    "truncate",
    "watermark",
    "best_of",
    "top_n_tokens",
    "adapter_id",
}
"""Parameters of text-generation-inference that this package answers itself, or refuses where they ask for something."""
NEW_TOKENS = ("max_new_tokens", "max_length", "min_length", "min_new_tokens")
SEQUENCES = ("num_beams", "num_return_sequences")
NGRAMS = ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size")
MAX_NGRAM_TOKENS = 100
"""transformers makes a list of that many parts of the prompt, however short it is: 10 million take 25 s and 1.4 GB."""
RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (1e-4, 100),
    "repetition_penalty": (0.01, 100),
    "encoder_repetition_penalty": (0.01, 100),
    "length_penalty": (-100, 100),
    "guidance_scale": (0, 100),
    "max_time": (0, 3600),
    "noise_scale": (0, 10),
}
"""Beyond these, logits overflow; on a GPU that ends the process."""
MAX_BIAS = 10_000
TOKEN_IDS = ("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id",
             "forced_eos_token_id", "bos_token_id", "eos_token_id")  # fmt: skip
STOPS = ("stop_sequence", "stop_strings")
MAX_STOPS, MAX_STOP_CHARS = 4, 40
"""A stop text is compared with the whole vocabulary before generation begins: these take a second for 30,000 tokens."""
LISTS = ("candidate_labels", "targets", "ignore_labels", "bad_words_ids", "sequence_bias", "documents",
         "suppress_tokens", "begin_suppress_tokens", "tools")  # fmt: skip
RESULTS = ("top_k", "points_per_crop", "points_per_batch", "num_workers")
MAX_TEMPLATE_CHARS = 300
MAX_CROP_LAYERS = 3
GRID = {"points_per_crop", "crops_n_layers", "crop_n_points_downscale_factor"}
MAX_FRAMES_SEEN = 64


@dataclass(frozen=True)
class RequestParameters:
    """The parameters of a request.

    Attributes:
        task: For the task, by its own names.
        seed: The request's seed, if it has one.
        truncate_tokens: Keep only so many last tokens of the prompt.
        details: Answer with the generated tokens too.
    """

    task: Mapping[str, Any]
    seed: int | None = None
    truncate_tokens: int | None = None
    details: bool = False


def parameter_names(task: Task) -> tuple[str, ...]:
    """The parameters of `task` that a client may set, by their own names."""
    return _settable(task.parameters)


@lru_cache
def _settable(parameters: type[BaseModel]) -> tuple[str, ...]:
    return tuple(name for name, field in parameters.model_fields.items() if not _is_denied(name, field.annotation))


def client_parameters(
    task: Task,
    sent: Mapping[str, Any],
    defaults: Mapping[str, Any],
    limits: ClientLimits,
    vocabulary_size: int | None = None,
) -> RequestParameters:
    """The parameters of a request, checked; the endpoint's own stand where the request says nothing.

    Args:
        task: The task.
        sent: As the client sent them, without what belongs to the inputs.
        defaults: Parameters of the endpoint.
        limits: What a client may ask for.
        vocabulary_size: Tokens of the model, where it has some: ids beyond them would end a GPU's process.

    Raises:
        Refused: 422 with the name of what is unknown, denied, of the wrong type or over a limit.
    """
    sent, _ = safe_value(sent, "parameters", limits.max_text_chars)
    values = _by_own_names(task, sent)
    own = {name: values.pop(name) for name in TGI_ONLY & values.keys() if name not in task.parameters.model_fields}
    _refuse_what_nobody_does(own)
    try:
        values = modern_parameters(task.name, values, quiet=True)
        # Only now, as an old name may stand for one that is denied.
        _refuse_denied(task, values)
        validated = tasks.validate_parameters(task, {**defaults, **values})
    except ConfigError as error:
        raise Refused(422, "; ".join(error.problems)[:1000]) from None
    except (TypeError, ValueError, RecursionError):
        raise Refused(422, "parameters: cannot be read.") from None
    # As they were read, not as they were sent: "9" is a number, too.
    read = {name: getattr(validated, name) for name in values}
    _check_finite(read)
    _check(read, limits)
    if GRID & read.keys():
        _check_points(validated, limits)
    _check_token_ids(read, vocabulary_size)
    return RequestParameters(
        task=validated.model_dump(exclude_unset=True),
        seed=_whole_number(own, "seed", 0, 2**63 - 1),
        truncate_tokens=_whole_number(own, "truncate", 1, 1 << 30),
        details=bool(own.get("details")),
    )


def _refuse_denied(task: Task, values: Mapping[str, Any]) -> None:
    names = parameter_names(task)
    for name in values:
        if name in task.parameters.model_fields and name not in names:
            raise Refused(422, f"parameters.{name}: may not be set by a request.")
    for name in values.get("generate_kwargs") or ():
        if name not in SPEECH_ARGUMENTS:
            raise Refused(422, f"parameters.generate_kwargs.{str(name)[:40]}: may not be set by a request.")


def _is_denied(name: str, annotation: Any) -> bool:
    return name in DENIED or (name not in DICTIONARIES and _holds_dictionary(annotation))


def _holds_dictionary(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (dict, Mapping) or annotation in (dict, Mapping, Any):
        return True
    return any(_holds_dictionary(part) for part in typing.get_args(annotation))


def _by_own_names(task: Task, sent: Mapping[str, Any]) -> dict[str, Any]:
    """What was sent, without nulls, with generation's parameters on top and under our names."""
    values = {name: value for name, value in sent.items() if value is not None and name not in FLATTENED}
    for name in FLATTENED:
        nested = sent.get(name)
        if nested is None:
            continue
        if not isinstance(nested, Mapping):
            raise Refused(422, f"parameters.{name}: expected a mapping.")
        _merge_generation(task, name, nested, values)
    known = task.parameters.model_fields
    return {
        (RENAMED[name] if name in RENAMED and name not in known and RENAMED[name] in known else name): value
        for name, value in values.items()
    }


def _merge_generation(task: Task, where: str, nested: Mapping[str, Any], values: dict[str, Any]) -> None:
    for name, value in nested.items():
        if value is None:
            continue
        if name in SPEECH_ARGUMENTS and "generate_kwargs" in task.parameters.model_fields:
            if not isinstance(value, str) or len(value) > 40:
                raise Refused(422, f"parameters.{where}.{name}: expected a short string.")
            values["generate_kwargs"] = {**values.get("generate_kwargs", {}), name: value}
        elif name not in FLATTENED and (
            name in GenerationParameters.model_fields or name in task.parameters.model_fields
        ):
            values.setdefault(name, value)
        else:
            raise Refused(422, f"parameters.{where}.{str(name)[:40]}: is not known, or may not be set by a request.")


def _refuse_what_nobody_does(own: Mapping[str, Any]) -> None:
    for name in ("watermark", "decoder_input_details", "adapter_id", "top_n_tokens"):
        if own.get(name):
            raise Refused(422, f"parameters.{name}: is not offered here. Leave it out.")
    if own.get("best_of") not in (None, 1):
        raise Refused(422, "parameters.best_of: is not offered here; see num_return_sequences.")


def _check_finite(values: Mapping[str, Any]) -> None:
    def is_finite(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(map(is_finite, value))
        return not isinstance(value, float) or math.isfinite(value)

    for name, value in values.items():
        if not is_finite(value):
            raise Refused(422, f"parameters.{name}: expected finite numbers.")


def _check(values: Mapping[str, Any], limits: ClientLimits) -> None:
    """Bounds on what costs time or memory."""
    caps = {
        **dict.fromkeys(NEW_TOKENS, limits.max_new_tokens),
        **dict.fromkeys(SEQUENCES, limits.max_sequences),
        **dict.fromkeys(NGRAMS, MAX_NGRAM_TOKENS),
        **dict.fromkeys(RESULTS, limits.max_results),
        "crops_n_layers": MAX_CROP_LAYERS,
        "num_frames": MAX_FRAMES_SEEN,
        "points_per_crop": 64,
    }
    for name, cap in caps.items():
        value = values.get(name)
        if isinstance(value, int | float) and value > cap:
            raise Refused(422, f"parameters.{name}: expected at most {cap:,}; got more.")
    for name in LISTS:
        value = values.get(name)
        if isinstance(value, list | tuple | dict) and len(value) > limits.max_labels:
            raise Refused(
                422, f"parameters.{name}: expected at most {limits.max_labels:,} entries; got {len(value):,}."
            )
    for name, (least, most) in RANGES.items():
        value = values.get(name)
        if isinstance(value, int | float) and not least <= value <= most:
            raise Refused(422, f"parameters.{name}: expected a number from {least:g} to {most:g}.")
    for name in STOPS:
        value = values.get(name) or []
        stops = [value] if isinstance(value, str) else value
        if len(stops) > MAX_STOPS or any(len(stop) > MAX_STOP_CHARS for stop in stops):
            raise Refused(
                422, f"parameters.{name}: expected at most {MAX_STOPS} texts of at most {MAX_STOP_CHARS} characters."
            )
    chunk_s = values.get("chunk_length_s")
    if isinstance(chunk_s, int | float) and chunk_s < 1:
        raise Refused(422, "parameters.chunk_length_s: expected at least 1 second.")
    biases = values.get("sequence_bias") or []
    if any(abs(bias) > MAX_BIAS for _, bias in biases):
        raise Refused(422, f"parameters.sequence_bias: expected biases from {-MAX_BIAS:,} to {MAX_BIAS:,}.")
    if "hypothesis_template" in values:
        _check_template(values["hypothesis_template"])


def _check_points(parameters: Any, limits: ClientLimits) -> None:
    side, factor = parameters.points_per_crop, parameters.crop_n_points_downscale_factor
    num_points = sum(4**layer * (side // factor**layer) ** 2 for layer in range(parameters.crops_n_layers + 1))
    if num_points > limits.max_points:
        raise Refused(
            422,
            f"parameters.points_per_crop: expected at most {limits.max_points:,} points in the image and all of its "
            f"crops; got {num_points:,}. Lower points_per_crop or crops_n_layers.",
        )


def _check_token_ids(values: Mapping[str, Any], vocabulary_size: int | None) -> None:
    def numbers(value: Any) -> list[int]:
        if isinstance(value, list | tuple):
            return [number for one in value for number in numbers(one)]
        return [value] if isinstance(value, int) else []

    for name in TOKEN_IDS:
        value = values.get(name)
        ids = numbers([pair[0] for pair in value] if name == "sequence_bias" and value else value)
        if vocabulary_size and any(not 0 <= one < vocabulary_size for one in ids):
            raise Refused(422, f"parameters.{name}: expected ids of the model's {vocabulary_size:,} tokens.")


def _check_template(template: Any) -> None:
    """A template with one plain place: a format such as `{:>9000000}` would make a text of any size."""
    text = template if isinstance(template, str) else ""
    if text.count("{}") != 1 or text.count("{") != 1 or text.count("}") != 1 or len(text) > MAX_TEMPLATE_CHARS:
        raise Refused(
            422,
            f"parameters.hypothesis_template: expected at most {MAX_TEMPLATE_CHARS} characters with one {{}} and no "
            "other braces.",
        )


def _whole_number(values: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refused(422, f"parameters.{name}: expected a whole number from {least} to {most:,}.")
    return value
