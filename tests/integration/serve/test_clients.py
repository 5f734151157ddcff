"""Every method of `huggingface_hub.InferenceClient` that has a task here, and the `openai` client, over sockets."""

from __future__ import annotations

import base64
import io
import re
import wave
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, ValidationError
from PIL import Image

Endpoints = Callable[[str], str]


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The client speaks to a local server, which counts as online."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield


@pytest.fixture
def client(endpoints: Endpoints) -> Callable[[str], InferenceClient]:
    return lambda task: InferenceClient(base_url=endpoints(task), api_key="none")


def picture(width: int = 48, height: int = 32) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def recording(seconds: float = 1.0, rate: int = 16_000) -> bytes:
    samples = (np.random.default_rng(0).normal(size=int(seconds * rate)) * 3000).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.tobytes())
    return file.getvalue()


Client = Callable[[str], InferenceClient]


def test_text_classification_gives_labels_best_first(client: Client) -> None:
    found = client("text-classification").text_classification("I love this film.", top_k=2)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert len(found) == 2


def test_json_that_a_browser_sends_as_text_is_json(endpoints: Endpoints) -> None:
    url, body = endpoints("text-classification"), b'{"inputs": "I love this film.", "parameters": {"top_k": 2}}'
    as_text, as_json = (
        httpx2.post(url, content=body, headers={"content-type": kind}).json()
        for kind in ("text/plain;charset=UTF-8", "application/json")
    )
    assert as_text == as_json and len(as_text[0]) == 2


def test_token_classification_gives_groups(client: Client) -> None:
    found = client("token-classification").token_classification(
        "Angela Merkel met John.", aggregation_strategy="simple"
    )
    assert all(one.entity_group and one.word for one in found)
    assert client("token-classification").token_classification("Angela Merkel met John.")


def test_fill_mask_gives_candidates(client: Client) -> None:
    found = client("fill-mask").fill_mask("The quick brown [MASK] jumps.", top_k=3)
    assert len(found) == 3
    assert all("[MASK]" not in one.sequence for one in found)


def test_question_answering_gives_an_answer_or_several(client: Client) -> None:
    context = "Paris is the capital of France and London is the capital of England."
    one = client("question-answering").question_answering(question="What is Paris?", context=context)
    assert one.answer == context[one.start : one.end]
    several = client("question-answering").question_answering(question="What?", context=context, top_k=3)
    assert isinstance(several, list)


def test_table_question_answering_gives_cells(client: Client) -> None:
    table = {"Name": ["John", "Angela"], "City": ["Paris", "Berlin"]}
    answer = client("table-question-answering").table_question_answering(table=table, query="Where is John?")
    assert isinstance(answer.answer, str)


def test_summaries_and_translations_are_texts(client: Client) -> None:
    text = "The price rose by 3.5% in 2024. A short text. Another text."
    summary = client("summarization").summarization(text, generate_parameters={"max_new_tokens": 5})
    assert isinstance(summary.summary_text, str)
    translation = client("translation").translation("A short text.", generate_parameters={"max_new_tokens": 5})
    assert isinstance(translation.translation_text, str)


def test_zero_shot_classification_gives_a_score_for_each_label(client: Client) -> None:
    found = client("zero-shot-classification").zero_shot_classification(
        "I love this film.", candidate_labels=["praise", "blame", "news"], hypothesis_template="It is {}."
    )
    assert {one.label for one in found} == {"praise", "blame", "news"}
    assert sum(one.score for one in found) == pytest.approx(1, abs=1e-4)


def test_features_are_arrays_however_many_texts(client: Client) -> None:
    one = client("feature-extraction").feature_extraction("A short text.")
    assert one.ndim == 3 and one.shape[0] == 1
    several = client("feature-extraction").feature_extraction(["A text.", "A somewhat longer text."], normalize=True)
    assert several.shape[0] == 2
    np.testing.assert_allclose(np.linalg.norm(several, axis=1), 1, rtol=1e-4)


def test_similar_sentences_score_higher_than_others(client: Client) -> None:
    scores = client("feature-extraction").sentence_similarity("A text.", ["A text.", "I hate this terrible movie!"])
    assert scores[0] == pytest.approx(1, abs=1e-4)
    assert scores[1] < scores[0]


def test_generated_text_is_the_new_text_only(client: Client) -> None:
    generation = client("text-generation")
    text = generation.text_generation("The quick", max_new_tokens=5, do_sample=False)
    assert not text.startswith("The quick")
    full = generation.text_generation("The quick", max_new_tokens=5, do_sample=False, return_full_text=True)
    assert full == "The quick" + text


def test_details_name_each_token(client: Client) -> None:
    found = client("text-generation").text_generation("The quick", max_new_tokens=5, do_sample=False, details=True)
    assert found.details.generated_tokens == len(found.details.tokens) == 5
    assert found.details.finish_reason == "length"
    assert all(token.logprob <= 0 for token in found.details.tokens)


def test_streamed_text_is_the_text(client: Client) -> None:
    generation = client("text-generation")
    whole = generation.text_generation("Paris is", max_new_tokens=8, do_sample=False)
    pieces = list(generation.text_generation("Paris is", max_new_tokens=8, do_sample=False, stream=True))
    assert len(pieces) == 8
    assert "".join(pieces) == whole
    last = list(generation.text_generation("Paris is", max_new_tokens=8, do_sample=False, stream=True, details=True))[
        -1
    ]
    assert last.generated_text == whole
    assert last.details is not None and last.details.generated_tokens == 8


def test_a_seed_makes_sampling_reproducible(client: Client) -> None:
    arguments = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.5}
    texts = [client("text-generation").text_generation("Paris", seed=seed, **arguments) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_truncated_prompts_keep_their_end(client: Client) -> None:
    generation = client("text-generation")
    cut = generation.text_generation("I love Paris is", max_new_tokens=5, do_sample=False, truncate=3)
    assert isinstance(cut, str)
    assert cut != generation.text_generation("I love Paris is", max_new_tokens=5, do_sample=False)


def test_chats_work_with_both_clients_and_as_streams(client: Client, endpoints: Endpoints) -> None:
    messages = [{"role": "user", "content": "Hello!"}]
    chat = client("text-generation").chat_completion(messages, max_tokens=6, temperature=0)
    text = chat.choices[0].message.content
    assert chat.usage.completion_tokens == 6
    streaming = client("text-generation")  # kept: a client that goes away closes its streams
    stream = streaming.chat_completion(messages, max_tokens=6, temperature=0, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in stream) == text
    other = openai.OpenAI(base_url=endpoints("text-generation") + "/v1", api_key="none")
    same = other.chat.completions.create(model="any", messages=messages, max_tokens=6, temperature=0)
    assert same.choices[0].message.content == text
    parts = other.chat.completions.create(
        model="any", messages=messages, max_tokens=6, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    seen = list(parts)
    assert "".join(part.choices[0].delta.content or "" for part in seen if part.choices) == text
    assert seen[-1].usage.completion_tokens == 6


def test_chats_in_parts_are_those_of_their_texts(client: Client, endpoints: Endpoints) -> None:
    def messages(content: Any) -> Any:
        return [{"role": "user", "content": content}]

    api = openai.OpenAI(base_url=endpoints("text-generation") + "/v1", api_key="none")
    create = partial(api.chat.completions.create, model="any", max_tokens=6, temperature=0)
    plain, text = create(messages=messages("Hello!")), {"type": "text", "text": "Hello!"}
    parts = create(messages=messages([text]))
    assert parts.choices[0].message.content == plain.choices[0].message.content
    assert parts.usage.prompt_tokens == plain.usage.prompt_tokens
    chat = client("text-generation").chat_completion(messages([text]), max_tokens=6, temperature=0)
    assert chat.choices[0].message.content == plain.choices[0].message.content
    uri = "data:image/png;base64," + base64.b64encode(picture()).decode()
    for stream in (False, True):
        with pytest.raises(openai.UnprocessableEntityError, match="image"):
            create(messages=messages([text, {"type": "image_url", "image_url": {"url": uri}}]), stream=stream)


def test_media_that_a_model_does_not_take_are_refused(endpoints: Endpoints) -> None:
    api = openai.OpenAI(base_url=endpoints("image-text-to-text") + "/v1", api_key="none")
    sound = {"data": base64.b64encode(recording()).decode(), "format": "wav"}
    content = [{"type": "text", "text": "What?"}, {"type": "input_audio", "input_audio": sound}]
    with pytest.raises(openai.UnprocessableEntityError, match="audio"):
        api.chat.completions.create(model="any", messages=[{"role": "user", "content": content}], max_tokens=3)  # type: ignore[call-overload]


def test_chats_about_a_picture_are_the_same_whole_and_as_streams(client: Client, endpoints: Endpoints) -> None:
    uri = "data:image/png;base64," + base64.b64encode(picture()).decode()
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "What is this?"}]
    messages = [{"role": "user", "content": content}]
    seeing = client("image-text-to-text")
    text = seeing.chat_completion(messages, max_tokens=6, temperature=0).choices[0].message.content
    stream = seeing.chat_completion(messages, max_tokens=6, temperature=0, stream=True)
    assert text and "".join(part.choices[0].delta.content or "" for part in stream) == text
    api = openai.OpenAI(base_url=endpoints("image-text-to-text") + "/v1", api_key="none")
    same = api.chat.completions.create(model="any", messages=messages, max_tokens=6, temperature=0)  # type: ignore[call-overload]
    assert same.choices[0].message.content == text
    body = {"inputs": "What now?", "parameters": {"max_new_tokens": 4, "do_sample": False}, "stream": True}
    lines = httpx2.post(endpoints("image-text-to-text"), json=body, timeout=60).text.splitlines()
    assert len([line for line in lines if line.startswith("data:")]) == 4


def test_completions_stop_before_their_stop_text(endpoints: Endpoints) -> None:
    api = openai.OpenAI(base_url=endpoints("text-generation") + "/v1", api_key="none")
    whole = api.completions.create(model="any", prompt="The quick", max_tokens=10, temperature=0).choices[0].text
    stop = whole[4:7]
    cut = api.completions.create(model="any", prompt="The quick", max_tokens=10, temperature=0, stop=[stop])
    assert cut.choices[0].text == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    parts = api.completions.create(
        model="any", prompt="The quick", max_tokens=10, temperature=0, stop=stop, stream=True
    )
    assert "".join(part.choices[0].text for part in parts) == cut.choices[0].text


def test_white_space_is_no_stop_text_that_every_text_ends_with(client: Client, endpoints: Endpoints) -> None:
    api = openai.OpenAI(base_url=endpoints("text-generation") + "/v1", api_key="none")
    create = partial(api.completions.create, model="any", prompt="The quick", max_tokens=10, temperature=0)
    whole = create().choices[0].text
    for stop in ("\n", " \n", whole[-3:] + "\n"):
        assert [(one.text, one.finish_reason) for one in create(stop=[stop]).choices] == [(whole, "length")]
        details = client("text-generation").text_generation(
            "The quick", max_new_tokens=10, do_sample=False, details=True, stop=[stop]
        )
        assert details.details.finish_reason == "length"
    space = whole.index(" ")
    assert create(stop=[" "]).choices[0].finish_reason == "stop"
    assert create(stop=[" "]).choices[0].text == whole[:space]


def test_embeddings_are_the_same_as_base64_and_as_numbers(endpoints: Endpoints) -> None:
    api = openai.OpenAI(base_url=endpoints("feature-extraction") + "/v1", api_key="none")
    encoded = api.embeddings.create(model="any", input=["A text.", "Another, longer text."])
    plain = api.embeddings.create(model="any", input=["A text.", "Another, longer text."], encoding_format="float")
    np.testing.assert_allclose(encoded.data[1].embedding, plain.data[1].embedding, rtol=1e-6)
    assert np.linalg.norm(plain.data[0].embedding) == pytest.approx(1, abs=1e-4)
    short = api.embeddings.create(model="any", input="A text.", dimensions=8)
    assert len(short.data[0].embedding) == 8
    assert plain.usage.total_tokens > 4


@pytest.mark.parametrize("top_k", [None, 2])
def test_images_are_classified_raw_and_in_base64(client: Client, top_k: int | None) -> None:
    found = client("image-classification").image_classification(picture(), top_k=top_k)
    assert found[0].label and len(found) == (top_k or len(found))


def test_objects_have_boxes(client: Client) -> None:
    found = client("object-detection").object_detection(picture(), threshold=0.0)
    assert all(one.box.xmin is not None for one in found)


def test_segments_have_masks_of_the_size_of_the_image(client: Client) -> None:
    found = client("image-segmentation").image_segmentation(picture(48, 32))
    assert found
    assert found[0].mask.size == (48, 32)


def test_an_image_becomes_an_image(client: Client) -> None:
    made = client("image-to-image").image_to_image(picture(24, 16))
    assert made.size == (48, 32)


def test_a_depth_is_numbers_or_its_picture_alone(endpoints: Endpoints) -> None:
    answer = httpx2.post(endpoints("depth-estimation"), content=picture(24, 16)).json()
    assert answer["predicted_depth"]["shape"] == [16, 24] and len(answer["predicted_depth"]["data"]) == 16 * 24
    alone = httpx2.post(endpoints("depth-estimation"), content=picture(24, 16), headers={"accept": "image/png"})
    assert alone.headers["content-type"] == "image/png"
    assert alone.content == base64.b64decode(answer["depth"])


def test_images_become_texts_and_answers(client: Client) -> None:
    assert isinstance(client("image-to-text").image_to_text(picture()).generated_text, str)
    answers = client("visual-question-answering").visual_question_answering(picture(), "What is it?", top_k=2)
    assert len(answers) == 2


def test_documents_answer_questions(client: Client) -> None:
    words = [["Paris", [10, 10, 60, 30]], ["is", [70, 10, 90, 30]], ["great", [100, 10, 160, 30]]]
    found = client("document-question-answering").document_question_answering(
        picture(), "What is Paris?", word_boxes=words
    )
    assert isinstance(found, list)


def test_images_are_matched_to_labels(client: Client) -> None:
    found = client("zero-shot-image-classification").zero_shot_image_classification(
        picture(), candidate_labels=["a cat", "a dog"]
    )
    assert {one.label for one in found} == {"a cat", "a dog"}


def test_recordings_are_classified_and_transcribed(client: Client, endpoints: Endpoints) -> None:
    found = client("audio-classification").audio_classification(recording(), top_k=1)
    assert len(found) == 1
    text = client("automatic-speech-recognition").automatic_speech_recognition(recording()).text
    api = openai.OpenAI(base_url=endpoints("automatic-speech-recognition") + "/v1", api_key="none")
    assert api.audio.transcriptions.create(model="any", file=("a.wav", recording())).text == text


def srt_times(text: str) -> list[float]:
    """Seconds at which cues begin and end, in their order."""
    clocks = re.findall(r"(\d+):(\d+):(\d+)[,.](\d+)", text)
    return [int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000 for h, m, s, ms in clocks]


@pytest.mark.parametrize("name", ["whisper", "automatic-speech-recognition"])
def test_transcripts_say_when_what_was_spoken(endpoints: Endpoints, name: str) -> None:
    api = openai.OpenAI(base_url=endpoints(name) + "/v1", api_key="none", max_retries=0)
    create = partial(api.audio.transcriptions.create, model="any", file=("a.wav", recording(2.5)))
    for kind in ("srt", "vtt"):
        times = srt_times(create(response_format=kind))
        assert times and all(start <= end <= 2.5 for start, end in zip(times[::2], times[1::2], strict=True))
    plain = create(response_format="verbose_json")
    assert plain.duration == 2.5 and plain.segments and plain.words is None
    assert all(one.start <= one.end <= 2.5 for one in plain.segments)
    words = create(response_format="verbose_json", timestamp_granularities=["word"])
    assert words.words and words.segments is None
    both = create(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert both.words == words.words
    assert "".join(one.text for one in both.segments).replace(" ", "") == both.text.replace(" ", "")
    with pytest.raises(openai.BadRequestError, match="stream"):
        create(stream=True)


def test_a_transcript_has_the_language_that_was_asked_for_or_heard(endpoints: Endpoints) -> None:
    api = openai.OpenAI(base_url=endpoints("whisper") + "/v1", api_key="none", max_retries=0)
    create = partial(api.audio.transcriptions.create, model="any", file=("a.wav", recording()))
    assert create(response_format="verbose_json", language="de").language == "german"
    assert create(response_format="verbose_json").language in ("english", "german", "french")


def test_texts_become_recordings(client: Client, endpoints: Endpoints) -> None:
    sound = client("text-to-audio").text_to_speech("hello")
    with wave.open(io.BytesIO(sound)) as clip:
        assert clip.getnframes() > 0
    api = openai.OpenAI(base_url=endpoints("text-to-audio") + "/v1", api_key="none")
    flac = api.audio.speech.create(model="any", voice="alloy", input="hello", response_format="flac").content
    assert flac[:4] == b"fLaC"
    with pytest.raises(openai.BadRequestError, match="stream_format"):
        api.audio.speech.create(model="any", voice="alloy", input="hello", stream_format="sse")


def test_endpoints_say_what_they_are(client: Client, endpoints: Endpoints) -> None:
    api = openai.OpenAI(base_url=endpoints("text-generation") + "/v1", api_key="none")
    (model,) = api.models.list().data
    assert model.id == "llama-chat"
    assert api.models.retrieve(model.id).id == model.id
    by_url = InferenceClient(provider="hf-inference", model=endpoints("fill-mask"), api_key="none")
    assert by_url.health_check()
    assert by_url.get_endpoint_info()["task"] == "fill-mask"


def test_wrong_parameters_are_refused_by_name(client: Client) -> None:
    with pytest.raises(HfHubHTTPError, match="top_k"):
        client("text-classification").text_classification("a", top_k=-1)
    with pytest.raises(ValidationError, match="temperature"):
        client("text-generation").text_generation("a", temperature=-1.0, max_new_tokens=2)
