"""The parameters of tasks that generate tokens: every field of `GenerationConfig` of transformers 5.23.

Only what the user sets is handed on; whatever is unset is the model's own generation config, or else the default of the
pipeline. Left out are two fields that are no parameters of `generate` (`transformers_version`,
`continuous_batching_config`) and those of search strategies that transformers 5 moved out of its code
(`MOVED_TO_THE_HUB`), which are refused with that reason.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from ray_pipelines.tasks import Parameters

MOVED_TO_THE_HUB = {
    "constraints": "constrained beam search",
    "force_words_ids": "constrained beam search",
    "num_beam_groups": "group beam search",
    "diversity_penalty": "group beam search",
    "penalty_alpha": "contrastive search",
    "low_memory": "contrastive search",
    "dola_layers": "DoLa decoding",
}
"""Fields of `GenerationConfig` without code in transformers 5, and the search strategy that each belongs to."""

CacheImplementation = Literal[
    "dynamic",
    "offloaded",
    "quantized",
    "static",
    "offloaded_static",
    "sliding_window",
    "hybrid",
    "hybrid_chunked",
    "offloaded_hybrid",
    "offloaded_hybrid_chunked",
]

Count = Annotated[int, pydantic.Field(ge=0)]
Size = Annotated[int, pydantic.Field(gt=0)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
TokenId = Annotated[int, pydantic.Field(ge=0)]
TokenIds = list[TokenId]


def _field(description: str) -> Any:
    return pydantic.Field(default=None, description=description)


class GenerationParameters(Parameters):
    """Arguments of `generate`; null leaves each to the model or the pipeline."""

    # How long
    max_length: Size | None = _field(
        "Longest output in tokens; with decoder-only models, the prompt counts too. Unlike `max_new_tokens`."
    )
    max_new_tokens: Size | None = _field("How many tokens are generated at most, not counting a prompt.")
    min_length: Count | None = _field("Shortest output in tokens; with decoder-only models, the prompt counts too.")
    min_new_tokens: Count | None = _field("How many tokens are generated at least, not counting a prompt.")
    early_stopping: bool | Literal["never"] | None = _field(
        "When beam search ends: as soon as there are `num_beams` finished texts (true), when a better one has become "
        'unlikely (false), or only when none can come ("never").'
    )
    max_time: float | None = pydantic.Field(
        default=None, gt=0, description="Seconds after which generation stops; results then depend on the machine."
    )
    stop_strings: str | list[str] | None = _field("Generation stops after any of these strings.")

    # How the next token is chosen
    do_sample: bool | None = _field("Draw tokens at random, rather than take the likeliest.")
    num_beams: Size | None = _field("Candidates that beam search follows at once; 1 for none.")
    use_mtp: bool | None = _field("Let a model that can predict several tokens in each step do so.")
    temperature: float | None = pydantic.Field(
        default=None, gt=0, description="Divides the logits before sampling: below 1 is more predictable, above less."
    )
    top_k: Count | None = _field("Sample among this many likeliest tokens; 0 for all.")
    top_p: float | None = pydantic.Field(
        default=None, gt=0, le=1, description="Sample among the likeliest tokens whose probabilities reach this sum."
    )
    min_p: Share | None = _field("Sample among tokens with at least this share of the likeliest token's probability.")
    top_h: Share | None = _field(
        "Sample among the likeliest tokens that hold this share of the distribution's entropy."
    )
    typical_p: float | None = pydantic.Field(
        default=None,
        gt=0,
        le=1,
        description="Sample among the tokens nearest to the expected information, to this sum.",
    )
    epsilon_cutoff: Share | None = _field("Sample among tokens with a probability above this.")
    eta_cutoff: Share | None = _field("Sample among tokens above a bound that falls with the entropy, from this value.")

    # What is changed about the logits
    repetition_penalty: float | None = pydantic.Field(
        default=None, gt=0, description="Above 1, makes tokens less likely that were already generated."
    )
    encoder_repetition_penalty: float | None = pydantic.Field(
        default=None, gt=0, description="Above 1, makes tokens less likely that are not in the input."
    )
    length_penalty: float | None = _field(
        "Power of a beam's length by which its score is divided: above 0 for longer texts."
    )
    no_repeat_ngram_size: Count | None = _field("No run of this many tokens occurs twice in an output.")
    encoder_no_repeat_ngram_size: Count | None = _field("No run of this many tokens of the input occurs in the output.")
    bad_words_ids: list[TokenIds] | None = _field("Runs of token ids that are never generated.")
    sequence_bias: list[tuple[TokenIds, float]] | None = _field(
        "Pairs of a run of token ids and what is added to the logits when it would be completed."
    )
    renormalize_logits: bool | None = _field("Make log-probabilities of the logits again after all these changes.")
    remove_invalid_values: bool | None = _field("Replace NaN and infinite logits, at some cost, instead of failing.")
    exponential_decay_length_penalty: tuple[int, float] | None = _field(
        "From this many tokens on, make the end likelier by this factor with each token."
    )
    suppress_tokens: TokenIds | None = _field("Ids of tokens that are never generated.")
    begin_suppress_tokens: TokenIds | None = _field("Ids of tokens that are never generated first.")
    forced_bos_token_id: TokenId | None = _field("Id of the first generated token, such as a target language.")
    forced_eos_token_id: TokenId | TokenIds | None = _field("Id of the last token of an output that reaches its limit.")
    guidance_scale: float | None = _field("Above 1, follow the prompt more closely (classifier-free guidance).")
    token_healing: bool | None = _field("Let the prompt's last tokens be replaced by longer ones that begin alike.")
    watermarking_config: dict[str, Any] | None = _field(
        "Settings of a watermark in the text: those of `WatermarkingConfig`, or with `keys` of SynthID's."
    )

    # What is returned
    num_return_sequences: Size | None = _field("How many texts are generated for each row.")
    output_attentions: bool | None = _field("Compute attentions too; results do not hold them.")
    output_hidden_states: bool | None = _field("Compute hidden states too; results do not hold them.")
    output_scores: bool | None = _field("Compute scores of each step too; results do not hold them.")
    output_logits: bool | None = _field("Compute logits of each step too; results do not hold them.")
    return_dict_in_generate: bool | None = _field("Let `generate` return all of its outputs; results do not hold them.")

    # Special tokens
    pad_token_id: TokenId | None = _field("Id of the token that fills up shorter outputs of a batch.")
    bos_token_id: TokenId | None = _field("Id of the token that begins a text.")
    eos_token_id: TokenId | TokenIds | None = _field("Id, or ids, of the tokens that end a text.")
    decoder_start_token_id: TokenId | TokenIds | None = _field(
        "Id of the token that an encoder-decoder's output starts with."
    )

    # How fast
    use_cache: bool | None = _field("Keep the keys and values of earlier tokens, rather than compute them again.")
    cache_implementation: CacheImplementation | None = _field("Kind of that cache.")
    cache_config: dict[str, Any] | None = _field("Settings of that cache.")
    max_cache_len: Size | None = _field("Length in tokens for which a static cache is made once.")
    prefill_chunk_size: Size | None = _field("Tokens of a long prompt that are read at once.")
    compile_config: dict[str, Any] | None = _field("Settings of `torch.compile`: those of `CompileConfig`.")
    disable_compile: bool | None = _field("Never compile the forward.")

    # Speculative decoding
    prompt_lookup_num_tokens: Size | None = _field(
        "Guess this many tokens from repetitions of the prompt; rows run alone."
    )
    max_matching_ngram_size: Size | None = _field("Longest repetition that is looked for in the prompt.")
    assistant_early_exit: Size | None = _field("Layer whose output drafts tokens, in models trained for that.")
    is_assistant: bool | None = _field("The model drafts for another.")
    num_assistant_tokens: Size | None = _field("Tokens that are drafted before each check.")
    num_assistant_tokens_schedule: Literal["heuristic", "heuristic_transient", "constant"] | None = _field(
        "How that number changes after each check."
    )
    assistant_confidence_threshold: Share | None = _field("Drafting pauses where the draft is less sure than this.")
    assistant_lookbehind: Size | None = _field("Draft tokens that are read again to align two tokenizers.")
    target_lookbehind: Size | None = _field("Tokens of the model that are read again to align two tokenizers.")
    assistant_ensemble_weight: float | None = pydantic.Field(
        default=None,
        gt=0,
        lt=1,
        description="Weight of the model in a mixture with its draft; unset, the draft changes nothing.",
    )
    speculation_type: Literal["dflash"] | None = _field("Kind of speculative decoding.")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _refuse_moved(cls, values: Any) -> Any:
        for name in MOVED_TO_THE_HUB if isinstance(values, dict) else ():
            if name in values and name not in cls.model_fields:
                raise ValueError(
                    f"{name}: expected nothing; got a value. It belongs to {MOVED_TO_THE_HUB[name]}, which "
                    "transformers 5 moved out of its code. Drop it."
                )
        return values


def generation_arguments(parameters: GenerationParameters) -> dict[str, Any]:
    """The arguments of `generate` that the user set, ready for a pipeline call.

    Args:
        parameters: Of a task; its further parameters are not among the arguments, nor is anything that is null.
    """
    names = GenerationParameters.model_fields.keys() & parameters.model_fields_set
    arguments = {name: getattr(parameters, name) for name in sorted(names)}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    if "sequence_bias" in arguments:
        arguments["sequence_bias"] = [list(pair) for pair in arguments["sequence_bias"]]
    if "watermarking_config" in arguments or "compile_config" in arguments:
        arguments |= _as_objects(arguments)
    return arguments


def _as_objects(arguments: dict[str, Any]) -> dict[str, Any]:
    """The settings that `generate` takes as objects of its own classes only."""
    from transformers import CompileConfig, SynthIDTextWatermarkingConfig, WatermarkingConfig

    objects: dict[str, Any] = {}
    if "compile_config" in arguments:
        objects["compile_config"] = CompileConfig(**arguments["compile_config"])
    if "watermarking_config" in arguments:
        watermark = arguments["watermarking_config"]
        kind = SynthIDTextWatermarkingConfig if "keys" in watermark else WatermarkingConfig
        objects["watermarking_config"] = kind(**watermark)
    return objects


def is_sampling(pipe: Any, parameters: Any) -> bool:
    """Whether generation draws random numbers: as the user says, else the model, else the pipeline; for `is_random`.

    Args:
        pipe: The loaded pipeline.
        parameters: The task's parameters.
    """
    asked = getattr(parameters, "do_sample", None)
    if asked is not None:
        return bool(asked)
    of_model = getattr(getattr(pipe.model, "generation_config", None), "do_sample", None)
    if of_model is not None:
        return bool(of_model)
    return bool(getattr(pipe, "_generation_defaults", {}).get("do_sample"))
