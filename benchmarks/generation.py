"""Text generation with prompts of mixed length: 16 new tokens each, by a small model of Llama's kind.

    python -m benchmarks.generation --quick
    python -m benchmarks.generation --rounds 3

Prompts have 3 to 200 tokens, most of them few. A batch generates until its last row is done, and pads its prompts to
the longest. Weights are random; decoding is greedy. Contenders are those of `contenders.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.common import CACHE, classifier
from benchmarks.contenders import Workload, arguments_of, compare

NEW_TOKENS = 16
WORDS = ("the", "of", "and", "model", "data", "tensor", "returns", "value", "list", "shape", "given", "input", "file")


def main() -> None:
    """Measures the one workload."""
    arguments = arguments_of(__doc__, rows=128)
    texts = prompts(arguments.rows)
    parameters = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "return_full_text": False}
    work = Workload("generation", "text-generation", llama(), texts, texts, "text", str, parameters)
    compare(work, f"{len(texts)} prompts of mixed length, {NEW_TOKENS} new tokens, two CPU cores", arguments)


def prompts(count: int) -> list[str]:
    """Words, of numbers drawn from a log-normal distribution."""
    random = np.random.default_rng(0)
    words = np.array(WORDS)
    lengths = np.clip(random.lognormal(3.0, 1.0, count), 3, 200).astype(int)
    return [" ".join(random.choice(words, length)) for length in lengths]


def llama() -> Path:
    """The folder of a causal model with random weights and MiniLM's tokenizer, padding on the left."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = CACHE / "llama-tiny"
    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(classifier(), padding_side="left")
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
            num_attention_heads=4, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
