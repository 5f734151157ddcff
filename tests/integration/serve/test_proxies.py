"""What clients send and get behind both of Serve's proxies: one of each kind of body and of answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.serve import test_clients as clients

Endpoints = Callable[[str], str]
online, client = clients.online, clients.client


@pytest.fixture(scope="module", params=["python", "haproxy"])
def endpoints(request: pytest.FixtureRequest, servers: Callable[[str], Endpoints]) -> Endpoints:
    """The URL of the endpoint of a task, behind one of the proxies."""
    return servers(request.param)


def test_json_in_json_out(client: clients.Client) -> None:
    clients.test_text_classification_gives_labels_best_first(client)
    clients.test_features_are_arrays_however_many_texts(client)


def test_files_bare_and_in_base64(client: clients.Client) -> None:
    clients.test_images_are_classified_raw_and_in_base64(client, None)
    clients.test_images_are_classified_raw_and_in_base64(client, 2)


def test_forms(client: clients.Client, endpoints: Endpoints) -> None:
    clients.test_recordings_are_classified_and_transcribed(client, endpoints)


def test_files_as_answers(client: clients.Client, endpoints: Endpoints) -> None:
    clients.test_an_image_becomes_an_image(client)
    clients.test_texts_become_recordings(client, endpoints)


def test_tokens_as_events(client: clients.Client, endpoints: Endpoints) -> None:
    clients.test_streamed_text_is_the_text(client)
    clients.test_chats_work_with_both_clients_and_as_streams(client, endpoints)


def test_errors_and_embeddings(client: clients.Client, endpoints: Endpoints) -> None:
    clients.test_wrong_parameters_are_refused_by_name(client)
    clients.test_embeddings_are_the_same_as_base64_and_as_numbers(endpoints)
    clients.test_endpoints_say_what_they_are(client, endpoints)
