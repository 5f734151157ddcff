"""The section `optimize` of a job file: what makes a model cheaper to run, and what cannot be had together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from ray_pipelines.validation import did_you_mean

if TYPE_CHECKING:
    from ray_pipelines.config import ModelConfig

__all__ = ["ATTENTIONS", "OptimizeConfig", "check_attention", "in_float32"]

ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")


class OptimizeConfig(BaseModel):
    """What makes a model cheaper to run, each off unless asked; the report says how far results agree with float32."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    compile: bool = Field(
        False,
        description="Run the model as compiled graphs (torch.compile). Lengths and batch sizes are rounded up so that "
        "few are needed; each takes seconds to minutes at first. On a CPU it needs a C++ compiler. Not for tasks that "
        "generate.",
    )
    int8: bool = Field(
        False, description="On a CPU, linear layers in 8-bit integers, of weights in float32. Not with compile."
    )
    packed: bool = Field(
        False,
        description="Encoders of BERT's kind without padding. A gain where rows of very different length share a "
        "batch. Not with compile, nor with model.attn_implementation.",
    )
    agreement_rows: int = Field(
        16,
        ge=0,
        description="Where precision or one of these settings is asked for, first rows of the input that are run in "
        "float32 too when a job is done, for the report; 0 for none.",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """What is asked for."""
        return tuple(name for name in ("compile", "int8", "packed") if getattr(self, name))

    def changes_results(self, model: ModelConfig) -> bool:
        """Whether something is asked for, here or of the model, that results in float32 are to be compared with."""
        return bool(self.names or model.dtype in ("float16", "bfloat16") or model.attn_implementation)

    def check(self, model: ModelConfig, num_gpus: float) -> None:
        """Refuses what cannot be had together.

        Raises:
            ValueError: One line per problem.
        """
        problems = self.problems(model, num_gpus)
        if problems:
            raise ValueError("\n".join(problems))

    def problems(self, model: ModelConfig, num_gpus: float) -> list[str]:
        """What cannot be had together, one line each.

        Args:
            model: The model.
            num_gpus: GPUs of each worker.
        """
        found = []
        device = "cuda" if num_gpus else str(model.device or "cpu")
        if self.int8 and device != "cpu" and device != "-1":
            found.append(
                f"optimize.int8: expected workers on a CPU; got {device}. Drop it, or set model.dtype: bfloat16."
            )
        if self.int8 and model.dtype not in ("auto", "float32"):
            found.append(f"optimize.int8: expected model.dtype float32 or unset; got {model.dtype}. Drop one of them.")
        for other in ("int8", "packed"):
            if self.compile and getattr(self, other):
                found.append(f"optimize.compile: excludes optimize.{other}. Keep one of them.")
        if self.packed and model.attn_implementation is not None:
            found.append("optimize.packed: excludes model.attn_implementation: it brings its own. Drop one of them.")
        if self.names and model.device_map is not None:
            found.append(f"optimize.{self.names[0]}: excludes model.device_map. Drop one of them.")
        return found


def in_float32(model: ModelConfig) -> ModelConfig:
    """The model as it runs where nothing is saved."""
    return model.model_copy(update={"dtype": "float32", "attn_implementation": None})


def check_attention(name: str | None, model_kwargs: Mapping[str, Any], trust_remote_code: bool) -> None:
    """Refuses an `attn_implementation` that is wrong, as far as its name tells.

    Raises:
        ValueError: What is wrong with it.
    """
    if name is None:
        return
    if "attn_implementation" in model_kwargs:
        raise ValueError("attn_implementation: is given in model_kwargs too. Drop it there.")
    if "/" in name and not trust_remote_code:
        raise ValueError(f"attn_implementation: {name!r} is code of the hub. Read it, and set trust_remote_code: true.")
    if "/" not in name and name not in ATTENTIONS:
        known = ", ".join(ATTENTIONS)
        raise ValueError(f"attn_implementation: expected one of {known}; got {name!r}.{did_you_mean(name, ATTENTIONS)}")
