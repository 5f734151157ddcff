"""What the pipelines over single images share: opening them, tokens beside them, and generation from both.

Text beside an image is never padded, as BLIP's decoder looks at what its encoder makes of padding. So its mask is
hidden from the executor, and rows share a forward if their texts are equally long.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from transformers import Pipeline
from transformers.image_utils import load_image

from ray_pipelines.engine.batching import hide_mask, restore_mask
from ray_pipelines.engine.lengths import max_tokens
from ray_pipelines.errors import InvalidInput, RowTooLarge

__all__ = ["explained", "generate", "generation_arguments", "image_inputs", "open_image", "tokenize"]


def open_image(image: Any, timeout: float | None = None) -> Any:
    """A PIL image in RGB; arrays and tensors are left to the image processor.

    Args:
        image: PIL image, path, URL, base64 or `data:` URI.
        timeout: Seconds to wait for a URL; None for ever.
    """
    return load_image(image, timeout=timeout) if isinstance(image, str | Image.Image) else image


def image_inputs(pipe: Pipeline, image: Any, **arguments: Any) -> dict[str, torch.Tensor]:
    """What the image processor makes of one image, of the model's dtype.

    Args:
        pipe: A pipeline with an image processor.
        image: From `open_image`.
        arguments: Those of the image processor's call.

    Raises:
        InvalidInput: It fails, as it may for long strips and for images of a few pixels.
    """
    with explained(pipe, image):
        return dict(pipe.image_processor(images=image, return_tensors="pt", **arguments).to(pipe.dtype))


@contextmanager
def explained(pipe: Pipeline, image: Any) -> Iterator[None]:
    """Names the image processor and the size of the image where it fails in the block.

    Raises:
        InvalidInput: It fails.
    """
    try:
        yield
    except (ArithmeticError, LookupError, RuntimeError, ValueError) as error:
        size = " x ".join(map(str, getattr(image, "size", None) or ("?", "?")))
        name = type(pipe.image_processor).__name__
        raise InvalidInput(f"image: {name} cannot process an image of {size} pixels: {error}") from error


def tokenize(pipe: Pipeline, text: str, **arguments: Any) -> dict[str, torch.Tensor]:
    """The `input_ids` and hidden mask of the text beside an image, int64[1, num_tokens].

    BLIP-2 looks at its image only where image tokens stand in the text; transformers' pipelines never wrote any.

    Args:
        pipe: A pipeline with a tokenizer.
        text: A question, or the beginning of a caption.
        arguments: Those of the tokenizer's call.
    """
    encoding = pipe.tokenizer(text, return_tensors="pt", **arguments)
    ids, mask = encoding["input_ids"], encoding["attention_mask"]
    config = pipe.model.config
    if config.model_type == "blip-2":
        if config.image_token_id is None:
            raise ValueError("the model's configuration has no image_token_id; it cannot read a text with an image.")
        images = torch.full((1, config.num_query_tokens), config.image_token_id)
        ids, mask = torch.cat([images, ids], dim=1), torch.cat([torch.ones_like(images), mask], dim=1)
    return hide_mask({"input_ids": ids, "attention_mask": mask})


def generation_arguments(arguments: Mapping[str, Any], generate_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Both kinds of arguments of `generate` in one.

    Raises:
        ValueError: A name is in both.
    """
    twice = sorted(arguments.keys() & (generate_kwargs or {}).keys())
    if twice:
        raise ValueError(f"{', '.join(twice)}: is set twice, by itself and in generate_kwargs. Drop one of them.")
    return {**arguments, **(generate_kwargs or {})}


def generate(pipe: Pipeline, model_inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> torch.Tensor:
    """The tokens that the model makes of a batch, int64[batch, num_return_sequences, length], padded at the end.

    Everything about generation is handed over as one `GenerationConfig`: BLIP passes some of it to its decoder by
    itself, and otherwise forgets the model's.

    Args:
        pipe: A pipeline whose model can generate.
        model_inputs: Inputs of the model, the mask of its tokens hidden or not.
        arguments: Of `generate`; what they leave open is the model's own generation config, or else the default of the
            pipeline.
    """
    inputs = restore_mask(model_inputs)
    if "generation_config" not in arguments:
        arguments = {**pipe._generate_kwargs, **arguments}
    others = dict(arguments)
    config = copy.deepcopy(others.pop("generation_config", None) or pipe.model.generation_config)
    others = config.update(**others, return_dict_in_generate=False)
    for name, value in pipe._generation_defaults.items():
        is_set = name == "max_new_tokens" and config.max_length is not None
        if getattr(config, name, None) is None and not is_set:
            setattr(config, name, value)
    if config.stop_strings is not None:
        others.setdefault("tokenizer", pipe.tokenizer)
    if pipe.assistant_model is not None:
        others.setdefault("assistant_model", pipe.assistant_model)
    if pipe.assistant_tokenizer is not None:
        others |= {"tokenizer": pipe.tokenizer, "assistant_tokenizer": pipe.assistant_tokenizer}
    _check_length(pipe, inputs, config)
    ids: torch.Tensor = pipe.model.generate(**inputs, generation_config=config, **others)
    size = next(value.shape[0] for value in inputs.values() if isinstance(value, torch.Tensor))
    return ids.reshape(size, -1, ids.shape[-1])


def _check_length(pipe: Pipeline, inputs: Mapping[str, Any], config: Any) -> None:
    """Refuses more tokens than the model has positions for: an index error, which on a GPU costs the whole process.

    Raises:
        RowTooLarge: Prompt and new tokens are more than that.
    """
    if pipe.model.config.model_type not in ("blip", "vision-encoder-decoder"):
        # Others have no such positions, or count those of their image too.
        return
    limit = max_tokens(pipe.model)
    is_prompt = "input_ids" in inputs and not hasattr(pipe.model, "text_encoder")
    num_prompt = inputs["input_ids"].shape[1] if is_prompt else 1
    if config.max_new_tokens is not None:
        total = num_prompt + config.max_new_tokens
    else:
        total = max(config.max_length or 0, num_prompt)
    # The last new token is never fed back.
    if limit is not None and total - 1 > limit:
        raise RowTooLarge(
            f"max_new_tokens: expected room for {num_prompt:,} + {total - num_prompt:,} tokens; the model has "
            f"positions for {limit:,}. Set a smaller max_new_tokens."
        )
