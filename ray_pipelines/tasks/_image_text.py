"""What the tasks share that write text about an image: the parameters of generation, also those without a name here."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pydantic

from ray_pipelines.tasks import Field
from ray_pipelines.tasks._generation import GenerationParameters, is_sampling

IMAGE = Field("image", "image", "The image: encoded bytes, a {bytes, path} struct, a path or URI, or an array.")


class ImageTextParameters(GenerationParameters):
    """Parameters of generation, by themselves or in `generate_kwargs`."""

    not_of_generation: ClassVar[frozenset[str]] = frozenset()
    """Parameters that are named like one of `generate`, and are none."""

    generate_kwargs: Annotated[
        dict[str, Any] | None,
        pydantic.Field(
            description="Any further arguments of the model's `generate`, e.g. {interpolate_pos_encoding: true}."
        ),
    ] = None

    @pydantic.model_validator(mode="after")
    def _nothing_is_set_twice(self) -> ImageTextParameters:
        own = GenerationParameters.model_fields.keys() & self.model_fields_set
        for name in sorted(own & (self.generate_kwargs or {}).keys()):
            if getattr(self, name) is not None and name not in self.not_of_generation:
                raise ValueError(f"generate_kwargs.{name}: is set by itself too. Drop one of them.")
        return self


def draws_numbers(pipe: Any, parameters: ImageTextParameters) -> bool:
    """Whether generation draws random numbers."""
    in_kwargs = (parameters.generate_kwargs or {}).get("do_sample")
    return is_sampling(pipe, parameters) if in_kwargs is None else bool(in_kwargs)
