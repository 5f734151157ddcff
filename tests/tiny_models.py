"""Tiny models with random weights, built offline, for use in the tests.

``build_model(name, folder)`` writes one of the models of ``MODELS`` as a Hugging Face model folder that
``transformers.pipeline(task, model=folder)`` loads. Weights come from a fixed seed and are drawn wide enough for
outputs to differ visibly between inputs; the classification heads are moreover centred and scaled on a few sample
inputs, so that the predicted label varies as well.
"""

import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from PIL import Image
from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES

MAX_LENGTH = 64
"""Longest input of the text models, in tokens, special ones included."""

_SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Angela Merkel met Barack Obama in Berlin, Germany on Monday.",
    "Paris is the capital of France and London is the capital of England.",
    "I love this movie! It was really great, the best film I have seen in years.",
    "I hate this movie; it was terrible, boring and a waste of time.",
    "The price rose by 3.5% to $1,250 in 2024 (up from $980 in 2023).",
    "Please call me back at 10:30 or write to someone@example.com.",
    "What is the name of the company that John works for? He doesn't know.",
    "A short text. Another text, somewhat longer than the first text was.",
    "El niño comió en el café; la façade était très élégante, über alles.",
    "日本語の文章です。中文句子。 emoji 😀 🚀 and more 🎉.",
)
_CHARACTERS = (
    "".join(chr(code) for code in range(33, 127))
    + "áàâäãåçéèêëíìîïñóòôöõøúùûüßœæ€£\u2013\u2014\u2018\u2019“”…日本語文章中国人大小。、😀🚀🎉"
)


# Tokenizers. The vocabularies are put together from the corpus above rather than trained, since the trainers of
# tokenizers yield other vocabularies from one process to the next. They are handed to the architecture's own tokenizer
# class: in transformers 5 those classes rebuild normalizer and pre-tokenizer themselves and take nothing but
# vocabulary, merges and post-processor from tokenizer.json.


def _words(pre_tokenizer: Any, normalizer: Any) -> list[str]:
    """Returns the distinct words and characters of the corpus as a tokenizer would see them, in order."""
    texts = (*_SENTENCES, *(" " + sentence for sentence in _SENTENCES), *_CHARACTERS)
    words = [word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))]
    return list(dict.fromkeys(words))


def _halves(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yields the words as beginning and end, the end being empty but for every second long word."""
    for index, word in enumerate(words):
        middle = len(word) // 2 if index % 2 and len(word) > 4 else len(word)
        yield word[:middle], word[middle:]


def _wordpiece_tokens(lower_case: bool) -> list[str]:
    """Returns a WordPiece vocabulary in which each character may begin or continue a word."""
    words = _words(pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(lowercase=lower_case))
    characters = sorted(set("".join(words)))
    tokens = [*characters, *("##" + char for char in characters)]
    for beginning, end in _halves(words):
        tokens += [beginning, "##" + end] if end else [beginning]
    return list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tokens]))


def _byte_level_merges(suffix: str = "") -> list[tuple[str, str]]:
    """Returns merges that build up the first letters of each word, its last letter bearing the suffix."""
    merges: dict[tuple[str, str], None] = {}
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if suffix:
        words = _words(
            pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), byte_level]), normalizers.Lowercase()
        )
    else:
        words = _words(byte_level, normalizers.NFC())
    for word in words:
        letters = [*word[:-1], word[-1] + suffix][:6]
        for index in range(1, len(letters)):
            merges["".join(letters[:index]), letters[index]] = None
    return list(merges)


def _unigram_vocab(special_tokens: Sequence[str]) -> list[tuple[str, float]]:
    """Returns a Unigram vocabulary with its scores, which favour long pieces."""
    vocab = dict.fromkeys(special_tokens, 0.0)
    pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    words = _words(pre_tokenizer, normalizers.NFC())
    words += _words(pre_tokenizer, normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()]))
    words = list(dict.fromkeys([*words, *map(str.lower, words)]))
    for index, piece in enumerate(piece for halves in _halves(words) for piece in halves if piece):
        vocab.setdefault(piece, -4.0 - index / 1000)
    for character in sorted(set("".join(words))):
        vocab.setdefault(character, -8.0)
    return list(vocab.items())


def _numbered(*tokens: str) -> dict[str, int]:
    """Numbers tokens from 0."""
    return {token: index for index, token in enumerate(tokens)}


def _tokenizer(name: str, **options: Any) -> PreTrainedTokenizerBase:
    """Creates a tokenizer of a transformers class."""
    return getattr(transformers, name)(**({"model_max_length": MAX_LENGTH} | options))


def _wordpiece(name: str = "BertTokenizer", lower_case: bool = True) -> PreTrainedTokenizerBase:
    """Returns a tokenizer like BERT's."""
    return _tokenizer(name, vocab=_numbered(*_wordpiece_tokens(lower_case)), do_lower_case=lower_case)


def _roberta_tokenizer() -> PreTrainedTokenizerBase:
    """Returns a tokenizer like RoBERTa's."""
    merges = _byte_level_merges()
    special_tokens = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokens = (*special_tokens, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges))
    # The mask token takes the space before it, as in the released RoBERTa tokenizers.
    mask = tokenizers.AddedToken("<mask>", lstrip=True, special=True)
    return _tokenizer("RobertaTokenizer", vocab=_numbered(*tokens), merges=merges, mask_token=mask)


def _gpt2_tokenizer(padded: bool = True, **options: Any) -> PreTrainedTokenizerBase:
    """Returns a tokenizer like GPT-2's, with a padding token or none."""
    merges = _byte_level_merges()
    tokens = (*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges), "<|endoftext|>")
    if padded:
        tokens = (*tokens, "<|pad|>")
        options = {"pad_token": "<|pad|>"} | options
    return _tokenizer("GPT2Tokenizer", vocab=_numbered(*tokens), merges=merges, **options)


def _labelled_tokenizer(**options: Any) -> PreTrainedTokenizerBase:
    """Returns a tokenizer like GPT-2's for which yes and no are one token each."""
    tokenizer = _gpt2_tokenizer(**options)
    tokenizer.add_tokens(["Yes", "No"])
    return tokenizer


def _clip_tokenizer(**options: Any) -> PreTrainedTokenizerBase:
    """Returns a tokenizer like CLIP's; its end token has the highest id, by which the models find it."""
    merges = _byte_level_merges("</w>")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = (*alphabet, *(char + "</w>" for char in alphabet), *map("".join, merges))
    vocab = _numbered(*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>")
    return _tokenizer("CLIPTokenizer", vocab=vocab, merges=merges, **options)


def _unigram(name: str, special_tokens: tuple[str, ...], unk_token: str, **options: Any) -> PreTrainedTokenizerBase:
    """Returns a tokenizer of one of the SentencePiece-like classes."""
    return _tokenizer(name, vocab=_unigram_vocab(special_tokens), unk_id=special_tokens.index(unk_token), **options)


_albert_tokenizer = partial(_unigram, special_tokens=("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), unk_token="<unk>")
_deberta_tokenizer = partial(
    _unigram, "DebertaV2Tokenizer", special_tokens=("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"), unk_token="[UNK]"
)
_xlnet_tokenizer = partial(
    _unigram,
    "XLNetTokenizer",
    special_tokens=("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eop>", "<eod>"),
    unk_token="<unk>",
)


_t5_tokenizer = partial(
    _unigram, "T5Tokenizer", special_tokens=("<pad>", "</s>", "<unk>"), unk_token="<unk>", extra_ids=0
)
_mbart_tokenizer = partial(
    _unigram,
    "MBartTokenizer",
    special_tokens=("<s>", "<pad>", "</s>", "<unk>", *FAIRSEQ_LANGUAGE_CODES, "<mask>"),
    unk_token="<unk>",
)


def _nllb_tokenizer() -> PreTrainedTokenizerBase:
    """Returns a tokenizer like NLLB's, with a few languages."""
    pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    words = _words(pre_tokenizer, normalizers.NFC())
    merges = dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, min(len(word), 6)))
    vocab = _numbered("<s>", "<pad>", "</s>", "<unk>", *sorted(set("".join(words))), *map("".join, merges))
    languages = ["eng_Latn", "fra_Latn", "deu_Latn"]
    return _tokenizer("NllbTokenizer", vocab=vocab, merges=list(merges), extra_special_tokens=languages)


@contextmanager
def _vocab_file(lines: str) -> Iterator[str]:
    """Yields the path of a temporary vocabulary file, for the tokenizer classes that accept nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vocab")
        path.write_text(lines, encoding="utf-8")
        yield str(path)


def _ctc_tokenizer() -> PreTrainedTokenizerBase:
    """Returns a tokenizer of characters for speech recognition."""
    vocab = _numbered("<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'")
    with _vocab_file(json.dumps(vocab)) as path:
        return _tokenizer("Wav2Vec2CTCTokenizer", vocab_file=path)


def _whisper_tokenizer() -> PreTrainedTokenizerBase:
    """Returns a tokenizer of letters with languages, tasks and timestamps up to two seconds."""
    letters = [*"abcdefghijklmnopqrstuvwxyz,.", *("Ġ" + letter for letter in "abcdefghijklmnopqrstuvwxyz")]
    special = ("startoftranscript", "en", "de", "fr", "translate", "transcribe", "startoflm", "startofprev", "nospeech")
    special = ("<|endoftext|>", *(f"<|{name}|>" for name in special), "<|notimestamps|>")
    times = [f"<|{0.02 * step:.2f}|>" for step in range(101)]
    # Each beginning of a word is merged from the space and its letter.
    merges = [("Ġ", letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = _tokenizer("WhisperTokenizer", vocab=_numbered(*letters, "Ġ"), merges=merges, pad_token=special[0])
    tokenizer.add_special_tokens({"additional_special_tokens": list(special[1:])})
    tokenizer.add_tokens(times)
    return tokenizer


def _vits_tokenizer() -> PreTrainedTokenizerBase:
    """Returns a tokenizer of letters for speech synthesis."""
    with _vocab_file(json.dumps(_numbered("<pad>", "<unk>", *" abcdefghijklmnopqrstuvwxyz'"))) as path:
        return _tokenizer("VitsTokenizer", vocab_file=path, phonemize=False)


def _tapas_tokenizer() -> PreTrainedTokenizerBase:
    """Returns a tokenizer of tables with their questions."""
    pad, *tokens = _wordpiece_tokens(lower_case=True)
    with _vocab_file("\n".join((pad, "[EMPTY]", *tokens))) as path:
        return _tokenizer("TapasTokenizer", vocab_file=path)


# Samples to centre and scale the heads on.


def _sample_texts() -> list[str]:
    """Returns texts of varied length."""
    words = [word for sentence in _SENTENCES for word in sentence.split()]
    noise = np.random.default_rng(0)
    return [*_SENTENCES, *(" ".join(noise.choice(words, size=length)) for length in range(1, 13) for _ in range(2))]


def _sample_images() -> list[Image.Image]:
    """Returns images of varied content."""
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(2)]
    images += [np.repeat(np.repeat(image[:4, :4], 8, axis=0), 8, axis=1) for image in images]
    images += [np.full((32, 32, 3), color, dtype=np.uint8) for color in noise.integers(0, 256, (6, 3))]
    return [Image.fromarray(image) for image in images]


def _sample_sounds() -> list[np.ndarray]:
    """Returns sounds at 16 kHz of varied content."""
    noise = np.random.default_rng(0)
    sounds = []
    for pitch in (60, 110, 440, 1_000, 2_500, 5_000):
        for loudness in (0.0, 0.05, 0.5):
            time = np.arange(noise.integers(6_000, 24_000)) / 16_000
            sounds.append(np.sin(2 * np.pi * pitch * time) + noise.normal(scale=loudness, size=time.shape))
    return [sound.astype(np.float32) for sound in sounds]


def _spread_logits(model: PreTrainedModel, outputs: int, samples: Sequence[dict[str, Any]]) -> torch.nn.Linear:
    """Centres and scales the last linear layer of so many outputs, measured on samples, so that labels vary."""
    head = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part.out_features == outputs][-1]
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].flatten(0, -2)))
    with torch.no_grad():
        for sample in samples:
            model(**sample)
        hook.remove()
        states = torch.cat(seen)
        if head.bias is None:
            mean = torch.nn.functional.normalize(states.mean(0), dim=0)
            head.weight -= torch.outer(head.weight @ mean, mean)
        else:
            head.bias -= head(states).mean(0)
        scale = 2 / head(states).std(0, keepdim=True).T
        head.weight *= scale
        if head.bias is not None:
            head.bias *= scale[:, 0]
    return head


# Models.


def _save(
    folder: Path,
    model_class: str,
    config: dict[str, Any],
    *processors: Any,
    labels: Sequence[str] = (),
    samples: Callable[[], Sequence[dict[str, Any]]] | None = None,
    outputs: int | None = None,
) -> None:
    """Creates a model with random weights and saves it with its processors.

    Args:
        folder: Folder to write to.
        model_class: Name of the model's class in transformers.
        config: Settings of the model's configuration; those that its class does not have are left out.
        processors: Tokenizer, image processor or feature extractor.
        labels: Label names, for a model that has them.
        samples: Returns model inputs on which to spread the logits of the labels; None leaves them as they are.
        outputs: Number of logits, with None for one per label and 0 for a head that is to stay as it is.
    """
    architecture: type[PreTrainedModel] = getattr(transformers, model_class)
    config_class = architecture.config_class
    settings = {config_class.attribute_map.get(key, key): value for key, value in config.items()}
    settings = {key: value for key, value in settings.items() if key in config_class.__dataclass_fields__}
    if labels:
        settings |= {"id2label": dict(enumerate(labels)), "label2id": _numbered(*labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(model_class.encode()))
        model = architecture(config_class(**settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                # Position embeddings and special tokens of some models start from zero.
                if parameter.ndim > 1 and not parameter.any():
                    parameter.normal_(std=0.3)
    if labels and samples is not None and outputs != 0:
        head = _spread_logits(model, outputs or len(labels), samples())
        if "O" in labels:
            # A fair share of the tokens is to be outside of any entity.
            head.bias.data[list(labels).index("O")] += 2
    model.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)


def _deferred(builder: Callable[..., None]) -> Callable[..., Callable[[Path], None]]:
    """Turns ``builder(folder, ...)`` into ``builder(...)(folder)``."""

    @wraps(builder)
    def prepare(*args: Any, **options: Any) -> Callable[[Path], None]:
        return lambda folder: builder(folder, *args, **options)

    return prepare


_TRANSFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.3,
}
_PATCHES = _TRANSFORMER | {"image_size": 30, "patch_size": 6, "initializer_range": 0.2}
_SPEECH = _TRANSFORMER | {
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (8, 8, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 32,
    "vocab_size": 32,
    "apply_spec_augment": False,
}
_PART = {"layers": 1, "attention_heads": 2, "ffn_dim": 64}
# Under the names that the various configurations have for the same sizes.
_TEXT = _TRANSFORMER | {
    "max_position_embeddings": MAX_LENGTH,
    "embedding_size": 32,
    "hidden_dim": 64,
    "n_inner": 64,
    "d_inner": 64,
}

_CONVOLUTIONS = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": (16, 16, 32, 32),
    "depths": (1, 1, 1, 1),
    "layer_type": "basic",
}
_DETR = {
    "use_timm_backbone": False,
    "backbone": None,
    "backbone_config": _CONVOLUTIONS | {"out_features": ["stage4"]},
    "use_pretrained_backbone": False,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 6,
    "init_std": 0.5,
    "init_xavier_std": 2.0,
}


_ENCODER_DECODER = {
    "d_model": 32,
    "d_ff": 64,
    "d_kv": 16,
    "num_heads": 2,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "init_std": 0.3,
    "scale_embedding": False,
}


@_deferred
def _text_model(
    folder: Path,
    model_class: str,
    tokenizer: Callable[[], PreTrainedTokenizerBase],
    labels: Sequence[str] = (),
    **config: Any,
) -> None:
    """Builds a text model."""
    text = tokenizer()
    sizes = {
        "vocab_size": len(text),
        "pad_token_id": text.pad_token_id,
        "bos_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
    }
    _save(
        folder,
        model_class,
        _TEXT | sizes | config,
        text,
        labels=labels,
        samples=lambda: [text(sample, truncation=True, return_tensors="pt") for sample in _sample_texts()],
    )


@_deferred
def _seq2seq_model(
    folder: Path,
    model_class: str,
    tokenizer: Callable[[], PreTrainedTokenizerBase],
    generation: dict[str, Any] | None = None,
    task_specific_params: dict[str, Any] | None = None,
    **config: Any,
) -> None:
    """Builds an encoder-decoder text model, whose configuration may say how it does each task."""
    _text_model(model_class, tokenizer, **(_ENCODER_DECODER | config))(folder)
    for name, extra in (
        ("generation_config.json", generation or {}),
        ("config.json", {"task_specific_params": task_specific_params} if task_specific_params else {}),
    ):
        settings = json.loads(Path(folder, name).read_text(encoding="utf-8"))
        settings.pop("_from_model_config", None)
        Path(folder, name).write_text(json.dumps(settings | extra), encoding="utf-8")


@_deferred
def _image_model(
    folder: Path,
    model_class: str,
    config: dict[str, Any],
    processor_class: str = "ViTImageProcessor",
    labels: Sequence[str] = (),
    outputs: int | None = None,
    **processing: Any,
) -> None:
    """Builds an image model."""
    processor = getattr(transformers, processor_class)(**({"size": {"height": 30, "width": 30}} | processing))
    _save(
        folder,
        model_class,
        config,
        processor,
        labels=labels,
        outputs=outputs,
        samples=lambda: [processor(image, return_tensors="pt") for image in _sample_images()],
    )


@_deferred
def _sound_model(
    folder: Path,
    model_class: str,
    config: dict[str, Any],
    extractor: Callable[[], Any],
    labels: Sequence[str] = (),
    tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None,
) -> None:
    """Builds a model of sounds at 16 kHz."""
    features = extractor()
    _save(
        folder,
        model_class,
        config,
        features,
        *([tokenizer()] if tokenizer else []),
        labels=labels,
        samples=lambda: [features(sound, sampling_rate=16_000, return_tensors="pt") for sound in _sample_sounds()],
    )


@_deferred
def _waveform_model(folder: Path, model_class: str, masked: bool, **options: Any) -> None:
    """Builds a model over the raw waveform, whose feature extraction has layer norms where it takes a mask."""
    norm = {"feat_extract_norm": "layer" if masked else "group", "do_stable_layer_norm": masked}
    extractor = partial(transformers.Wav2Vec2FeatureExtractor, return_attention_mask=masked, do_normalize=True)
    _sound_model(model_class, _SPEECH | norm, extractor, **options)(folder)


@_deferred
def _whisper_model(folder: Path) -> None:
    """Builds a Whisper with windows of two seconds, for any language and with timestamps."""
    text = _whisper_tokenizer()
    token_id = text.convert_tokens_to_ids
    config = {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "num_mel_bins": 16,
        "max_source_positions": 100,
        "max_target_positions": 48,
        "vocab_size": len(text),
        "pad_token_id": text.pad_token_id,
        "bos_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
        "decoder_start_token_id": token_id("<|startoftranscript|>"),
        "init_std": 0.4,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    }
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    _save(folder, "WhisperForConditionalGeneration", config, extractor, text)
    special = [special for special in text.all_special_ids if special != text.eos_token_id]
    generation = transformers.GenerationConfig(
        decoder_start_token_id=token_id("<|startoftranscript|>"),
        pad_token_id=text.pad_token_id,
        eos_token_id=text.eos_token_id,
        suppress_tokens=special,
        begin_suppress_tokens=[text.eos_token_id],
        is_multilingual=True,
        lang_to_id={f"<|{language}|>": token_id(f"<|{language}|>") for language in ("en", "de", "fr")},
        task_to_id={task: token_id(f"<|{task}|>") for task in ("translate", "transcribe")},
        no_timestamps_token_id=token_id("<|notimestamps|>"),
        prev_sot_token_id=token_id("<|startofprev|>"),
        max_initial_timestamp_index=50,
        max_length=16,
        alignment_heads=[[0, 0], [1, 1]],
    )
    generation.save_pretrained(folder)


@_deferred
def _moonshine_model(folder: Path) -> None:
    """Builds an encoder-decoder over the raw waveform."""
    text = _wordpiece()
    config = {
        "vocab_size": len(text),
        "hidden_size": 32,
        "intermediate_size": 64,
        **{f"{part}_num_{name}": 2 for part in ("encoder", "decoder") for name in ("hidden_layers", "attention_heads")},
        "max_position_embeddings": MAX_LENGTH,
        "initializer_range": 0.3,
        "bos_token_id": text.cls_token_id,
        "eos_token_id": text.sep_token_id,
        "pad_token_id": text.pad_token_id,
        "decoder_start_token_id": text.cls_token_id,
    }
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False)
    _save(folder, "MoonshineForConditionalGeneration", config, extractor, text)


@_deferred
def _vits_model(folder: Path, **config: Any) -> None:
    """Builds a speech synthesiser whose clips are as long as the text makes them."""
    text = _vits_tokenizer()
    sizes = {
        "vocab_size": len(text),
        "pad_token_id": text.pad_token_id,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "ffn_dim": 16,
        "flow_size": 16,
        "spectrogram_bins": 9,
        "upsample_initial_channel": 16,
        "upsample_rates": (4, 4),
        "upsample_kernel_sizes": (8, 8),
        "resblock_kernel_sizes": (3,),
        "resblock_dilation_sizes": ((1, 3),),
        "duration_predictor_filter_channels": 16,
        "duration_predictor_num_flows": 2,
        "prior_encoder_num_flows": 2,
        "prior_encoder_num_wavenet_layers": 1,
        "posterior_encoder_num_wavenet_layers": 1,
        "initializer_range": 0.3,
    }
    _save(folder, "VitsModel", sizes | config, text)


@_deferred
def _speecht5_model(folder: Path) -> None:
    """Builds a synthesiser of spectrograms, and in the folder `vocoder` what makes sound of them."""
    text = _wordpiece()
    spectrum = {"num_mel_bins": 8, "reduction_factor": 2, "speaker_embedding_dim": 4, "speech_decoder_postnet_units": 8}
    parts = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in _PART.items()}
    config = {"vocab_size": len(text), "hidden_size": 32, "initializer_range": 0.3, "max_text_positions": MAX_LENGTH}
    conv = {name: _SPEECH[name] for name in ("conv_dim", "conv_kernel", "conv_stride")}
    prenet = {"speech_decoder_prenet_units": 16, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    _save(folder, "SpeechT5ForTextToSpeech", config | spectrum | parts | conv | prenet, text)
    vocoder = {
        "model_in_dim": 8,
        "sampling_rate": 8000,
        "upsample_initial_channel": 16,
        "upsample_rates": (4, 4),
        "upsample_kernel_sizes": (8, 8),
        "resblock_kernel_sizes": (3,),
        "resblock_dilation_sizes": ((1, 3),),
        "initializer_range": 0.3,
    }
    _save(folder / "vocoder", "SpeechT5HifiGan", vocoder)


@_deferred
def _clap_model(folder: Path, fused: bool) -> None:
    """Builds a model of sounds and texts with windows of one second, fused of several crops or cut at random."""
    text = _roberta_tokenizer()
    extractor = transformers.ClapFeatureExtractor(
        feature_size=64 if fused else 16,
        sampling_rate=8_000,
        hop_length=130,
        max_length_s=1,
        fft_window_size=256,
        frequency_max=4_000,
        truncation="fusion" if fused else "rand_trunc",
    )
    audio = {
        "window_size": 4,
        "num_mel_bins": extractor.feature_size,
        "spec_size": extractor.feature_size * 2,
        "hidden_size": 32,
        "patch_embeds_hidden_size": 16,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "num_hidden_layers": 2,
        "projection_dim": 32,
        "enable_fusion": fused,
        "fusion_type": None,
        "initializer_factor": 3.0,
    }
    tokens = {
        "vocab_size": len(text),
        "pad_token_id": text.pad_token_id,
        "bos_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
        "projection_dim": 32,
    }
    config = {
        "text_config": _TRANSFORMER | _ROBERTA | tokens | {"initializer_factor": 10.0},
        "audio_config": audio,
        "projection_dim": 32,
        "initializer_factor": 10.0,
    }
    _save(folder, "ClapModel", config, extractor, text)


@_deferred
def _image_text_model(
    folder: Path,
    model_class: str,
    processor_class: str,
    image_processor: Callable[[], Any],
    tokenizer: Callable[[], PreTrainedTokenizerBase],
    initializer_factor: float,
) -> None:
    """Builds a model with an image and a text tower."""
    text = tokenizer()
    spread = {"projection_dim": 32, "initializer_factor": initializer_factor}
    tower = _PATCHES | spread | {"initializer_range": 0.3}
    tokens = {
        "vocab_size": len(text),
        "max_position_embeddings": text.model_max_length,
        "pad_token_id": text.pad_token_id,
        "bos_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
    }
    config_class = getattr(transformers, model_class).config_class
    parts = {
        part: config_class.sub_configs[part](**options)
        for part, options in (("vision_config", tower), ("text_config", tower | tokens))
    }
    processor = getattr(transformers, processor_class)(image_processor=image_processor(), tokenizer=text)
    _save(folder, model_class, parts | spread, processor)


@_deferred
def _sam_model(folder: Path) -> None:
    """Builds a model that masks objects at points of an image."""
    patches = {"image_size": 64, "patch_size": 8}
    sizes = _TRANSFORMER | patches | {"hidden_size": 16, "mlp_dim": 32}
    config = {
        "vision_config": transformers.SamVisionConfig(
            **sizes, output_channels=16, window_size=4, global_attn_indexes=(1,), num_pos_feats=8, mlp_ratio=2.0
        ),
        "prompt_encoder_config": transformers.SamPromptEncoderConfig(hidden_size=16, mask_input_channels=4, **patches),
        "mask_decoder_config": transformers.SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16
        ),
        "initializer_range": 0.3,
    }
    image_processor = transformers.SamImageProcessor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )
    _save(folder, "SamModel", config, transformers.SamProcessor(image_processor=image_processor))


@_deferred
def _grounding_dino_model(folder: Path) -> None:
    """Builds a model that finds what a text describes, and in which the words of the text influence each other."""
    text = _wordpiece()
    config = {
        "backbone_config": transformers.SwinConfig(
            image_size=32,
            patch_size=4,
            embed_dim=16,
            depths=(1, 1, 1, 1),
            num_heads=(2, 2, 2, 2),
            window_size=4,
            out_features=["stage2", "stage3", "stage4"],
        ),
        "text_config": transformers.BertConfig(
            **_TRANSFORMER, vocab_size=len(text), max_position_embeddings=MAX_LENGTH
        ),
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "num_queries": 8,
        "max_text_len": MAX_LENGTH,
        "init_std": 0.3,
    }
    image_processor = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 256})
    _save(folder, "GroundingDinoForObjectDetection", config, text, image_processor)


@_deferred
def _superglue_model(folder: Path) -> None:
    """Builds a model that matches points of two images."""
    detector = transformers.SuperPointConfig(
        encoder_hidden_sizes=[8, 8, 16, 16],
        decoder_hidden_size=16,
        descriptor_decoder_dim=32,
        keypoint_threshold=0.01,
        max_keypoints=40,
        initializer_range=0.3,
    )
    config = {
        "keypoint_detector_config": detector,
        "hidden_size": 32,
        "keypoint_encoder_sizes": [16, 32],
        "gnn_layers_types": ["self", "cross"],
        "num_attention_heads": 2,
        "sinkhorn_iterations": 5,
        "initializer_range": 0.3,
    }
    _save(
        folder,
        "SuperGlueForKeypointMatching",
        config,
        transformers.SuperGlueImageProcessor(size={"height": 64, "width": 80}),
    )


@_deferred
def _video_model(folder: Path, model_class: str, config: dict[str, Any], processor: Callable[[], Any]) -> None:
    """Builds a model of videos of 16 x 16 pixels."""
    noise = np.random.default_rng(0)
    videos = noise.integers(0, 256, (12, config["num_frames"], 16, 16, 3), dtype=np.uint8)
    videos[::2] = videos[::2, :, :1, :1]
    video_processor = processor()
    _save(
        folder,
        model_class,
        config,
        video_processor,
        labels=_OBJECTS,
        samples=lambda: [video_processor(video, return_tensors="pt") for video in videos],
    )


def _page_model(folder: Path) -> None:
    """Builds a model of pages that looks at words, their boxes and the picture."""
    merges = _byte_level_merges()
    special_tokens = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokens = (*special_tokens, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges))
    text = _tokenizer("LayoutLMv3Tokenizer", vocab=_numbered(*tokens), merges=merges)
    config = _TRANSFORMER | {
        "vocab_size": len(text),
        "pad_token_id": text.pad_token_id,
        "max_position_embeddings": MAX_LENGTH + 2,
        "max_2d_position_embeddings": 1024,
        "coordinate_size": 6,
        "shape_size": 4,
        "input_size": 32,
        "patch_size": 8,
        "has_relative_attention_bias": True,
        "has_spatial_attention_bias": True,
    }
    pixels = transformers.LayoutLMv3ImageProcessor(size={"height": 32, "width": 32})
    _save(folder, "LayoutLMv3ForQuestionAnswering", config, text, pixels)


def _donut_model(folder: Path) -> None:
    """Builds a model that writes the answer to a question about a picture."""
    tokens = ["<s_docvqa>", "<s_question>", "</s_question>", "<s_answer>", "</s_answer>"]
    text = _roberta_tokenizer()
    text.add_tokens(tokens)
    text.model_max_length = 2 * MAX_LENGTH
    encoder = transformers.DonutSwinConfig(
        image_size=(32, 32), patch_size=4, embed_dim=16, depths=(1, 1), num_heads=(2, 2), window_size=4
    )
    decoder = transformers.MBartConfig(
        vocab_size=len(text),
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        max_position_embeddings=2 * MAX_LENGTH,
        is_decoder=True,
        is_encoder_decoder=False,
        add_cross_attention=True,
        init_std=1.0,
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
        model = transformers.VisionEncoderDecoderModel(config).eval()
    model.generation_config.pad_token_id = text.pad_token_id
    model.generation_config.eos_token_id = text.eos_token_id
    model.generation_config.decoder_start_token_id = text.bos_token_id
    model.generation_config.max_new_tokens = 8
    model.save_pretrained(folder)
    text.save_pretrained(folder)
    transformers.DonutImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def _llava_model(folder: Path) -> None:
    """Builds a model of chats with images."""
    text = _gpt2_tokenizer(chat_template=_IMAGE_CHAT_TEMPLATE, model_max_length=512)
    text.add_tokens([tokenizers.AddedToken("<image>", special=True, normalized=False)])
    image_processor = transformers.CLIPImageProcessor(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30})
    processor = transformers.LlavaProcessor(
        image_processor=image_processor,
        tokenizer=text,
        patch_size=6,
        vision_feature_select_strategy="default",
        chat_template=_IMAGE_CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )
    language = transformers.LlamaConfig(
        **(_TRANSFORMER | {"initializer_range": 1.0}),
        vocab_size=len(text),
        num_key_value_heads=1,
        max_position_embeddings=512,
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
    )
    config = {
        "vision_config": transformers.CLIPVisionConfig(**_PATCHES),
        "text_config": language,
        "image_token_id": text.convert_tokens_to_ids("<image>"),
        "vision_feature_layer": -1,
    }
    _save(folder, "LlavaForConditionalGeneration", config, processor)


def _chat_language(text: PreTrainedTokenizerBase, config_class: str, **options: Any) -> Any:
    """The configuration of the language model of one that chats about media."""
    return getattr(transformers, config_class)(
        **(_TRANSFORMER | {"initializer_range": 1.0}),
        vocab_size=len(text),
        num_key_value_heads=1,
        max_position_embeddings=512,
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        **options,
    )


def _chat_tokenizer(*tokens: str) -> PreTrainedTokenizerBase:
    """A tokenizer of chats with these tokens for media."""
    text = _labelled_tokenizer(chat_template=_MEDIA_CHAT_TEMPLATE, model_max_length=512)
    text.add_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in tokens])
    return text


def _qwen2_vl_model(folder: Path) -> None:
    """Builds a model of chats with images and videos."""
    text = _chat_tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    sizes = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, "min_pixels": 64, "max_pixels": 1024}
    processor = transformers.Qwen2VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes),
        tokenizer=text,
        video_processor=transformers.Qwen2VLVideoProcessor(
            **sizes, min_frames=2, max_frames=8, cap_pixels_per_frame=False
        ),
        chat_template=_MEDIA_CHAT_TEMPLATE,
    )
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 4, "initializer_range": 0.5}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = {
        "vision_config": vision,
        "text_config": _chat_language(text, "Qwen2VLTextConfig", rope_parameters=rope).to_dict(),
        **{
            f"{name}_token_id": text.convert_tokens_to_ids(token)
            for name, token in {
                "image": "<|image_pad|>",
                "video": "<|video_pad|>",
                "vision_start": "<|vision_start|>",
                "vision_end": "<|vision_end|>",
            }.items()
        },
    }
    _save(folder, "Qwen2VLForConditionalGeneration", config, processor)


def _qwen2_audio_model(folder: Path) -> None:
    """Builds a model of chats with recordings."""
    text = _chat_tokenizer("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    processor = transformers.Qwen2AudioProcessor(extractor, text, chat_template=_MEDIA_CHAT_TEMPLATE)
    audio = {
        "num_mel_bins": 16,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "d_model": 32,
        "max_source_positions": 100,
        "initializer_range": 0.5,
    }
    config = {
        "audio_config": transformers.Qwen2AudioEncoderConfig(**audio),
        "text_config": _chat_language(text, "Qwen2Config"),
        "audio_token_id": text.convert_tokens_to_ids("<|AUDIO|>"),
    }
    _save(folder, "Qwen2AudioForConditionalGeneration", config, processor)


def _janus_model(folder: Path) -> None:
    """Builds a model of chats with images that also makes images of 8 x 8 pixels."""
    special = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    text = _gpt2_tokenizer(chat_template=_JANUS_CHAT_TEMPLATE, model_max_length=512, extra_special_tokens=special)
    text.add_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special.values()])
    processor = transformers.JanusProcessor(
        transformers.JanusImageProcessor(size={"height": 16, "width": 16}, min_size=4),
        text,
        chat_template=_JANUS_CHAT_TEMPLATE,
        num_image_tokens=16,
    )
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    pictures = {"embed_dim": 4, "num_embeddings": 64, "latent_channels": 8, "base_channels": 32, "num_res_blocks": 1}
    config = {
        "vision_config": transformers.JanusVisionConfig(
            **sizes, mlp_ratio=2.0, projection_dim=32, num_image_tokens=16, initializer_range=0.3
        ),
        "text_config": _chat_language(text, "LlamaConfig"),
        "vq_config": transformers.JanusVQVAEConfig(
            **pictures, channel_multiplier=[1, 1], projection_dim=32, image_token_embed_dim=32, initializer_range=0.3
        ),
        "image_token_id": text.convert_tokens_to_ids("<image_placeholder>"),
    }
    _save(folder, "JanusForConditionalGeneration", config, processor)
    generation = transformers.GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        guidance_scale=2.0,
        generation_kwargs={"boi_token_id": text.convert_tokens_to_ids("<begin_of_image>")},
    )
    generation.save_pretrained(folder)


def _musicgen_model(folder: Path) -> None:
    """Builds a model that makes music of texts, 1,000 tokens a second."""
    text = _t5_tokenizer()
    special = {"pad_token_id": text.pad_token_id, "eos_token_id": text.eos_token_id}
    encoder = transformers.T5Config(
        **special, vocab_size=len(text), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, initializer_factor=3.0
    )
    codec = transformers.EncodecConfig(
        sampling_rate=8000,
        hidden_size=32,
        num_filters=4,
        upsampling_ratios=[4, 2],
        codebook_size=64,
        codebook_dim=32,
        target_bandwidths=[24.0],
        num_lstm_layers=1,
    )
    decoder = transformers.MusicgenDecoderConfig(
        vocab_size=64,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_codebooks=2,
        pad_token_id=64,
        bos_token_id=64,
        max_position_embeddings=256,
        initializer_factor=0.3,
    )
    config = {"text_encoder": encoder, "audio_encoder": codec, "decoder": decoder}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.MusicgenForConditionalGeneration(transformers.MusicgenConfig(**config)).eval()
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=64, pad_token_id=64, bos_token_id=64, max_length=20, do_sample=False, guidance_scale=3.0
    )
    model.save_pretrained(folder)
    transformers.MusicgenProcessor(transformers.EncodecFeatureExtractor(sampling_rate=8000), text).save_pretrained(
        folder
    )


@_deferred
def _writing_model(
    folder: Path,
    model_class: str,
    tokenizer: Callable[[], PreTrainedTokenizerBase],
    config: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]],
    processor_class: str = "BlipImageProcessor",
    **processing: Any,
) -> None:
    """Builds a model that writes at most 16 tokens about an image, or scores answers about it.

    ``config`` makes the model's settings of those for its image and for its text part. Image processor and tokenizer
    are saved by themselves, so that transformers 4.57 loads them too.
    """
    text = tokenizer()
    special = {
        "pad_token_id": text.pad_token_id,
        "bos_token_id": text.bos_token_id if text.bos_token_id is not None else text.cls_token_id,
        "eos_token_id": text.eos_token_id if text.eos_token_id is not None else text.sep_token_id,
        "sep_token_id": text.sep_token_id,
    }
    sizes = {"vocab_size": len(text), "max_position_embeddings": MAX_LENGTH, "encoder_hidden_size": 32}
    settings = config(_PATCHES | {"initializer_range": 0.3}, _TRANSFORMER | sizes | special)
    labels = settings.pop("labels", ())
    processor = getattr(transformers, processor_class)(**({"size": {"height": 30, "width": 30}} | processing))
    _save(
        folder,
        model_class,
        settings,
        processor,
        text,
        labels=labels,
        samples=lambda: [
            {**processor(image, return_tensors="pt"), **text(sentence, truncation=True, return_tensors="pt")}
            for image, sentence in zip(_sample_images(), _SENTENCES, strict=False)
        ],
    )
    if not labels:
        ids = {name: value for name, value in special.items() if name != "sep_token_id"}
        start = {"decoder_start_token_id": special["bos_token_id"]} if "decoder" in settings else {}
        transformers.GenerationConfig(max_length=16, **ids, **start).save_pretrained(folder)


def _blip_config(image: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """Returns settings of BLIP."""
    return {"vision_config": image, "text_config": text | {"projection_dim": 32}, "image_text_hidden_size": 32}


def _blip2_config(image: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """Returns settings of BLIP-2 with OPT, for a tokenizer whose last token stands for the image."""
    return {
        "vision_config": image,
        "qformer_config": text | {"encoder_hidden_size": 32},
        "text_config": text | {"model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3},
        "num_query_tokens": 4,
        "image_token_index": text["vocab_size"] - 1,
    }


def _vit_gpt2_config(image: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """Returns settings of ViT as encoder and GPT-2 as decoder."""
    decoder = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 64, "n_positions": MAX_LENGTH}
    names = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range")
    decoder |= {name: text[name] for name in names} | {"is_decoder": True, "add_cross_attention": True}
    return {
        "encoder": transformers.ViTConfig(**image),
        "decoder": transformers.GPT2Config(**decoder),
        "decoder_start_token_id": text["bos_token_id"],
        "pad_token_id": text["pad_token_id"],
    }


def _blip_tokenizer(image_token: bool = False) -> PreTrainedTokenizerBase:
    """Returns a tokenizer like BERT's without token types, with a last token that stands for the image or without."""
    vocab = _numbered(*_wordpiece_tokens(lower_case=True))
    text = _tokenizer("BertTokenizer", vocab=vocab, model_input_names=["input_ids", "attention_mask"])
    if image_token:
        text.add_tokens(["<image>"], special_tokens=True)
    return text


@dataclass(frozen=True)
class TinyModel:
    """A tiny model.

    Attributes:
        name: Key in ``MODELS``.
        task: Pipeline task identifier.
        build: Writes the model's files into an existing, empty folder.
    """

    name: str
    task: str
    build: Callable[[Path], None]


_SENTIMENTS = ("negative", "neutral", "positive")
_ENTITIES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
_OBJECTS = ("cat", "dog", "bird", "fish", "tree")
_ANSWERS = ("yes", "no", "red", "two", "a dog", "outside", "bread")
_COMMANDS = ("yes", "no", "up", "down")
_TOPICS = ("sport", "politics", "film", "science")
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

_IMAGE_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{% if not loop.last or add_generation_prompt %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

_MEDIA_CHAT_TEMPLATE = _IMAGE_CHAT_TEMPLATE.replace(
    "'<image>' if part['type'] == 'image' else part['text']",
    "{'image': '<|vision_start|><|image_pad|><|vision_end|>', 'video': '<|vision_start|><|video_pad|><|vision_end|>', "
    "'audio': '<|audio_bos|><|AUDIO|><|audio_eos|>'}[part['type']] if part['type'] != 'text' else part['text']",
)

_JANUS_CHAT_TEMPLATE = _IMAGE_CHAT_TEMPLATE.replace("<image>", "<image_placeholder>")

_distilbert_tokenizer = partial(_wordpiece, "DistilBertTokenizer")
_cased_tokenizer = partial(_wordpiece, lower_case=False)
_unpadded_gpt2_tokenizer = partial(_gpt2_tokenizer, padded=False)
# RoBERTa numbers positions from the padding token's id + 1.
_ROBERTA = {"max_position_embeddings": MAX_LENGTH + 2}

# Builders by task and name.
_BUILDERS: dict[str, dict[str, Callable[[Path], None]]] = {
    "text-classification": {
        "bert-classifier": _text_model("BertForSequenceClassification", _wordpiece, labels=_SENTIMENTS),
        "roberta-classifier": _text_model(
            "RobertaForSequenceClassification", _roberta_tokenizer, labels=("negative", "positive"), **_ROBERTA
        ),
        "distilbert-multilabel": _text_model(
            "DistilBertForSequenceClassification",
            _distilbert_tokenizer,
            labels=_TOPICS,
            problem_type="multi_label_classification",
        ),
        "bert-regression": _text_model(
            "BertForSequenceClassification", _wordpiece, labels=("score",), problem_type="regression"
        ),
        "gpt2-classifier": _text_model("GPT2ForSequenceClassification", _gpt2_tokenizer, labels=_SENTIMENTS),
        "gpt2-classifier-no-pad": _text_model(
            "GPT2ForSequenceClassification", _unpadded_gpt2_tokenizer, labels=_SENTIMENTS
        ),
        "deberta-classifier": _text_model(
            "DebertaV2ForSequenceClassification",
            _deberta_tokenizer,
            labels=_SENTIMENTS,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
        ),
        "convbert-classifier": _text_model(
            "ConvBertForSequenceClassification",
            partial(_wordpiece, "ConvBertTokenizer"),
            labels=_SENTIMENTS,
            head_ratio=1,
            conv_kernel_size=5,
        ),
        "fnet-classifier": _text_model(
            "FNetForSequenceClassification", partial(_albert_tokenizer, "FNetTokenizer"), labels=_SENTIMENTS
        ),
        "albert-classifier": _text_model(
            "AlbertForSequenceClassification", partial(_albert_tokenizer, "AlbertTokenizer"), labels=_SENTIMENTS
        ),
        # Without memories, which pipelines cannot take apart again in batches.
        "xlnet-classifier": _text_model(
            "XLNetForSequenceClassification", _xlnet_tokenizer, labels=_SENTIMENTS, use_mems_eval=False
        ),
    },
    "token-classification": {
        "bert-ner": _text_model("BertForTokenClassification", _cased_tokenizer, labels=_ENTITIES),
        "roberta-ner": _text_model("RobertaForTokenClassification", _roberta_tokenizer, labels=_ENTITIES, **_ROBERTA),
        "distilbert-ner": _text_model("DistilBertForTokenClassification", _distilbert_tokenizer, labels=_ENTITIES),
    },
    "feature-extraction": {
        "bert-features": _text_model("BertModel", _wordpiece),
        "gpt2-features": _text_model("GPT2Model", _gpt2_tokenizer),
        "roberta-features": _text_model("RobertaModel", _roberta_tokenizer, **_ROBERTA),
        "fnet-features": _text_model("FNetModel", partial(_albert_tokenizer, "FNetTokenizer")),
    },
    "fill-mask": {
        "bert-mlm": _text_model("BertForMaskedLM", _wordpiece),
        "roberta-mlm": _text_model("RobertaForMaskedLM", _roberta_tokenizer, **_ROBERTA),
        "distilbert-mlm": _text_model("DistilBertForMaskedLM", _distilbert_tokenizer),
    },
    "image-classification": {
        "vit-classifier": _image_model("ViTForImageClassification", config=_PATCHES, labels=_OBJECTS),
        "convnext-classifier": _image_model(
            "ConvNextForImageClassification",
            config={
                "hidden_sizes": (16, 32),
                "depths": (1, 1),
                "num_stages": 2,
                "initializer_range": 0.3,
                "layer_scale_init_value": 1.0,
            },
            processor_class="ConvNextImageProcessor",
            labels=_OBJECTS,
            size={"shortest_edge": 32},
        ),
        "resnet-classifier": _image_model(
            "ResNetForImageClassification",
            config={"embedding_size": 16, "hidden_sizes": (16, 32), "depths": (1, 1), "layer_type": "basic"},
            processor_class="ConvNextImageProcessor",
            labels=_OBJECTS,
            size={"shortest_edge": 32},
        ),
        "swin-classifier": _image_model(
            "SwinForImageClassification",
            config={
                "image_size": 32,
                "patch_size": 4,
                "embed_dim": 16,
                "depths": (1, 1),
                "num_heads": (2, 2),
                "window_size": 4,
                "initializer_range": 0.3,
            },
            labels=_OBJECTS,
            size={"height": 32, "width": 32},
        ),
        "vit-multilabel": _image_model(
            "ViTForImageClassification",
            config=_PATCHES | {"problem_type": "multi_label_classification"},
            labels=_OBJECTS[:4],
        ),
    },
    "audio-classification": {
        "wav2vec2-classifier-mask": _waveform_model("Wav2Vec2ForSequenceClassification", masked=True, labels=_COMMANDS),
        "wav2vec2-classifier-groupnorm": _waveform_model(
            "Wav2Vec2ForSequenceClassification", masked=False, labels=_COMMANDS
        ),
        "ast-classifier": _sound_model(
            "ASTForAudioClassification",
            config=_TRANSFORMER
            | {"patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 64, "num_mel_bins": 32},
            extractor=partial(transformers.ASTFeatureExtractor, num_mel_bins=32, max_length=64),
            labels=_COMMANDS,
        ),
        "hubert-classifier": _waveform_model("HubertForSequenceClassification", masked=True, labels=_COMMANDS),
        "whisper-classifier": _sound_model(
            "WhisperForAudioClassification",
            config={
                "d_model": 32,
                "encoder_layers": 2,
                "decoder_layers": 2,
                "encoder_attention_heads": 2,
                "decoder_attention_heads": 2,
                "encoder_ffn_dim": 64,
                "decoder_ffn_dim": 64,
                "classifier_proj_size": 32,
                "num_mel_bins": 16,
                "max_source_positions": 100,
                "max_target_positions": 16,
                "vocab_size": 32,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "decoder_start_token_id": 1,
                "init_std": 0.3,
            },
            extractor=partial(transformers.WhisperFeatureExtractor, feature_size=16, chunk_length=2),
            labels=_COMMANDS,
        ),
    },
    "question-answering": {
        "bert-qa": _text_model("BertForQuestionAnswering", _cased_tokenizer),
        "roberta-qa": _text_model("RobertaForQuestionAnswering", _roberta_tokenizer, **_ROBERTA),
        "distilbert-qa": _text_model("DistilBertForQuestionAnswering", _distilbert_tokenizer),
        "xlnet-qa": _text_model("XLNetForQuestionAnsweringSimple", _xlnet_tokenizer, use_mems_eval=False),
    },
    "text2text-generation": {
        "t5-text2text": _seq2seq_model(
            "T5ForConditionalGeneration",
            _t5_tokenizer,
            decoder_start_token_id=0,
            initializer_factor=3.0,
            generation={"decoder_start_token_id": 0},
            task_specific_params={
                "summarization": {"prefix": "A short text: ", "max_length": 24, "min_length": 6, "num_beams": 2},
                "translation_en_to_de": {"prefix": "The name of ", "max_length": 30, "num_beams": 3},
                "translation_en_to_fr": {"prefix": "Paris is ", "max_length": 30},
            },
        ),
        "bart-text2text": _seq2seq_model(
            "BartForConditionalGeneration",
            _roberta_tokenizer,
            decoder_start_token_id=2,
            generation={"decoder_start_token_id": 2, "forced_bos_token_id": 0},
        ),
    },
    "translation": {
        "mbart-translation": _seq2seq_model("MBartForConditionalGeneration", _mbart_tokenizer),
        "nllb-translation": _seq2seq_model("M2M100ForConditionalGeneration", _nllb_tokenizer),
    },
    "zero-shot-classification": {
        "bert-nli": _text_model(
            "BertForSequenceClassification", _wordpiece, labels=("contradiction", "neutral", "entailment")
        )
    },
    "text-generation": {
        "gpt2-lm": _text_model(
            "GPT2LMHeadModel", partial(_gpt2_tokenizer, padding_side="left", chat_template=_CHAT_TEMPLATE)
        ),
        "gpt2-lm-no-pad": _text_model("GPT2LMHeadModel", _unpadded_gpt2_tokenizer),
        "llama-chat": _text_model(
            "LlamaForCausalLM",
            partial(_gpt2_tokenizer, chat_template=_CHAT_TEMPLATE, model_max_length=512),
            max_position_embeddings=512,
            num_key_value_heads=1,
            initializer_range=1.0,
        ),
        # Has a state instead of a mask.
        "rwkv-lm": _text_model("RwkvForCausalLM", _gpt2_tokenizer, context_length=256, initializer_range=1.0),
        # Counts positions from the padding on the left of a prompt.
        "bart-lm": _text_model(
            "BartForCausalLM",
            _roberta_tokenizer,
            d_model=32,
            decoder_layers=2,
            decoder_attention_heads=2,
            decoder_ffn_dim=64,
            init_std=0.3,
            is_decoder=True,
        ),
    },
    "automatic-speech-recognition": {
        "wav2vec2-ctc": _waveform_model("Wav2Vec2ForCTC", masked=True, tokenizer=_ctc_tokenizer),
        "wav2vec2-ctc-groupnorm": _waveform_model("Wav2Vec2ForCTC", masked=False, tokenizer=_ctc_tokenizer),
        "whisper": _whisper_model(),
        "moonshine": _moonshine_model(),
    },
    "text-to-audio": {
        "vits": _vits_model(noise_scale=0.0, noise_scale_duration=0.0),
        "vits-noise": _vits_model(),
        "musicgen": _musicgen_model,
        "speecht5": _speecht5_model(),
        "vits-voices": _vits_model(noise_scale=0.0, noise_scale_duration=0.0, num_speakers=2, speaker_embedding_size=8),
    },
    "zero-shot-audio-classification": {"clap": _clap_model(fused=False), "clap-fused": _clap_model(fused=True)},
    "object-detection": {
        "yolos-detector": _image_model(
            "YolosForObjectDetection",
            config=_PATCHES | {"image_size": (30, 30), "num_detection_tokens": 4},
            processor_class="YolosImageProcessor",
            labels=_OBJECTS,
            outputs=len(_OBJECTS) + 1,
            size={"shortest_edge": 30, "longest_edge": 40},
        ),
        "detr-detector": _image_model(
            "DetrForObjectDetection",
            config=_DETR,
            processor_class="DetrImageProcessor",
            labels=_OBJECTS,
            outputs=len(_OBJECTS) + 1,
            size={"shortest_edge": 64, "longest_edge": 128},
        ),
    },
    "zero-shot-image-classification": {
        "clip": _image_text_model(
            "CLIPModel",
            processor_class="CLIPProcessor",
            image_processor=partial(
                transformers.CLIPImageProcessor, size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}
            ),
            tokenizer=partial(_clip_tokenizer, model_max_length=32),
            initializer_factor=2.0,
        ),
        "siglip": _image_text_model(
            "SiglipModel",
            processor_class="SiglipProcessor",
            image_processor=partial(transformers.SiglipImageProcessor, size={"height": 30, "width": 30}),
            tokenizer=partial(_clip_tokenizer, pad_token="!"),
            initializer_factor=2.0,
        ),
    },
    "zero-shot-object-detection": {
        "owlvit": _image_text_model(
            "OwlViTForObjectDetection",
            processor_class="OwlViTProcessor",
            image_processor=partial(transformers.OwlViTImageProcessor, size={"height": 30, "width": 30}),
            tokenizer=partial(_clip_tokenizer, model_max_length=16, pad_token="!"),
            initializer_factor=0.3,
        ),
        "grounding-dino": _grounding_dino_model(),
    },
    "mask-generation": {"sam": _sam_model()},
    "image-segmentation": {
        "segformer": _image_model(
            "SegformerForSemanticSegmentation",
            config={
                "num_encoder_blocks": 2,
                "depths": (1, 1),
                "sr_ratios": (2, 1),
                "hidden_sizes": (16, 32),
                "patch_sizes": (7, 3),
                "strides": (4, 2),
                "num_attention_heads": (1, 2),
                "mlp_ratios": (2, 2),
                "decoder_hidden_size": 32,
                "initializer_range": 0.3,
            },
            processor_class="SegformerImageProcessor",
            labels=_OBJECTS,
            outputs=0,
            size={"height": 32, "width": 32},
        ),
        "detr-panoptic": _image_model(
            "DetrForSegmentation",
            config=_DETR
            | {"backbone_config": _CONVOLUTIONS | {"out_features": ["stage1", "stage2", "stage3", "stage4"]}},
            processor_class="DetrImageProcessor",
            labels=_OBJECTS,
            outputs=len(_OBJECTS) + 1,
            size={"shortest_edge": 64, "longest_edge": 128},
        ),
        "maskformer": _image_model(
            "MaskFormerForInstanceSegmentation",
            config={
                "backbone_config": {
                    "model_type": "swin",
                    "image_size": 32,
                    "patch_size": 4,
                    "embed_dim": 16,
                    "depths": (1, 1, 1, 1),
                    "num_heads": (2, 2, 2, 2),
                    "window_size": 4,
                    "out_features": ["stage1", "stage2", "stage3", "stage4"],
                },
                "decoder_config": {
                    "model_type": "detr",
                    **{key: value for key, value in _DETR.items() if key not in ("backbone", "backbone_config")},
                },
                "mask_feature_size": 32,
                "fpn_feature_size": 32,
                "init_std": 0.3,
            },
            processor_class="MaskFormerImageProcessor",
            labels=_OBJECTS,
            outputs=len(_OBJECTS) + 1,
            size={"shortest_edge": 64, "longest_edge": 128},
            size_divisor=32,
            num_labels=len(_OBJECTS),
        ),
    },
    "depth-estimation": {
        "dpt": _image_model(
            "DPTForDepthEstimation",
            config=_TRANSFORMER
            | {
                "num_hidden_layers": 4,
                "initializer_range": 0.15,
                "image_size": 32,
                "patch_size": 8,
                "backbone_out_indices": (0, 1, 2, 3),
                "neck_hidden_sizes": (8, 8, 16, 16),
                "fusion_hidden_size": 16,
            },
            processor_class="DPTImageProcessor",
            size={"height": 32, "width": 32},
        ),
        "depth-anything": _image_model(
            "DepthAnythingForDepthEstimation",
            config={
                "backbone_config": {
                    "model_type": "dinov2",
                    "image_size": 28,
                    "patch_size": 14,
                    "hidden_size": 32,
                    "num_hidden_layers": 4,
                    "num_attention_heads": 2,
                    "initializer_range": 0.3,
                    "out_features": ["stage1", "stage2", "stage3", "stage4"],
                    "reshape_hidden_states": False,
                },
                "reassemble_hidden_size": 32,
                "patch_size": 14,
                "neck_hidden_sizes": (8, 8, 8, 8),
                "fusion_hidden_size": 8,
                "head_hidden_size": 4,
                "initializer_range": 0.3,
            },
            processor_class="DPTImageProcessor",
            size={"height": 42, "width": 42},
            keep_aspect_ratio=True,
            ensure_multiple_of=14,
        ),
    },
    "image-feature-extraction": {
        "vit-features": _image_model("ViTModel", config=_PATCHES),
        "convnext-features": _image_model(
            "ConvNextModel",
            config={
                "hidden_sizes": (16, 32),
                "depths": (1, 1),
                "num_stages": 2,
                "initializer_range": 0.3,
                "layer_scale_init_value": 1.0,
            },
            processor_class="ConvNextImageProcessor",
            size={"shortest_edge": 32},
        ),
    },
    "keypoint-matching": {"superglue": _superglue_model()},
    "video-classification": {
        "videomae": _video_model(
            "VideoMAEForVideoClassification",
            config=_TRANSFORMER
            | {"image_size": 16, "patch_size": 8, "num_frames": 4, "tubelet_size": 2, "initializer_range": 0.2},
            processor=partial(
                transformers.VideoMAEVideoProcessor,
                size={"shortest_edge": 16},
                crop_size={"height": 16, "width": 16},
            ),
        )
    },
    "document-question-answering": {
        "layoutlm-docqa": _text_model("LayoutLMForQuestionAnswering", _wordpiece, max_2d_position_embeddings=1024),
        "layoutlmv3-docqa": _page_model,
        "donut-docqa": _donut_model,
    },
    "image-text-to-text": {"llava": _llava_model},
    "any-to-any": {"qwen2-vl": _qwen2_vl_model, "qwen2-audio": _qwen2_audio_model, "janus": _janus_model},
    "decision": {
        "llama-decision": _text_model(
            "LlamaForCausalLM",
            partial(_labelled_tokenizer, chat_template=_CHAT_TEMPLATE, model_max_length=512),
            max_position_embeddings=512,
            num_key_value_heads=1,
            initializer_range=1.0,
        )
    },
    "visual-question-answering": {
        "vilt-vqa": _writing_model(
            "ViltForQuestionAnswering",
            _wordpiece,
            lambda image, text: text | {"image_size": 32, "patch_size": 8, "labels": _ANSWERS},
            processor_class="ViltImageProcessor",
            size={"shortest_edge": 32},
            size_divisor=8,
        ),
        "blip-vqa": _writing_model("BlipForQuestionAnswering", _blip_tokenizer, _blip_config),
        "blip2-vqa": _writing_model(
            "Blip2ForConditionalGeneration", partial(_blip_tokenizer, image_token=True), _blip2_config
        ),
    },
    "image-to-text": {
        "vit-gpt2": _writing_model(
            "VisionEncoderDecoderModel", _gpt2_tokenizer, _vit_gpt2_config, processor_class="ViTImageProcessor"
        ),
        "blip-captions": _writing_model("BlipForConditionalGeneration", _blip_tokenizer, _blip_config),
        "git-captions": _writing_model(
            "GitForCausalLM",
            _wordpiece,
            lambda image, text: text | {"vision_config": image},
            processor_class="CLIPImageProcessor",
            size={"shortest_edge": 30},
            crop_size={"height": 30, "width": 30},
        ),
    },
    "image-to-image": {
        "swin2sr": _image_model(
            "Swin2SRForImageSuperResolution",
            config={
                "image_size": 16,
                "embed_dim": 16,
                "depths": (1, 1),
                "num_heads": (2, 2),
                "window_size": 4,
                "upscale": 2,
                "initializer_range": 0.04,
            },
            processor_class="Swin2SRImageProcessor",
        )
    },
    "table-question-answering": {
        "tapas-tableqa": _text_model(
            "TapasForQuestionAnswering",
            _tapas_tokenizer,
            num_aggregation_labels=4,
            aggregation_labels={0: "NONE", 1: "SUM", 2: "AVERAGE", 3: "COUNT"},
            use_answer_as_supervision=True,
            no_aggregation_label_index=0,
            initializer_range=0.25,
        )
    },
}

MODELS: dict[str, TinyModel] = {
    name: TinyModel(name, task, build) for task, builders in _BUILDERS.items() for name, build in builders.items()
}


def build_model(name: str, folder: Path) -> Path:
    """Builds a model unless its folder already exists.

    The model is written to a temporary sibling folder which is then renamed, so several processes may build the same
    model at once and an interrupted build leaves no half-written model behind.

    Args:
        name: Key in ``MODELS``.
        folder: Folder that is to hold the model's files.

    Returns:
        The folder.
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        MODELS[name].build(scratch)
        scratch.chmod(0o755)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
