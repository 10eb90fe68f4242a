"""…/rerank in Cohere's and Jina's shape: order, models, limits, quotas, errors; and Cohere's own client, unmodified."""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import AsyncIterator

import cohere
import httpx
import pytest
from cohere.core.api_error import ApiError

from tenants.errors import Overloaded, Unavailable

DOCUMENTS = ["Bread is baked.", "Paris is the capital of France.", "The capital of Italy is Rome."]
ASKED = {"query": "What is the capital of Italy?", "documents": DOCUMENTS}


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_documents_come_back_best_first_with_their_places(world, version: str) -> None:
    headers = world.tenant("acme", "query")
    answer = await world.client.post(f"/t/acme/{version}/rerank", json=ASKED, headers=headers)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [result["index"] for result in body["results"]] == [2, 1, 0]
    scores = [result["relevance_score"] for result in body["results"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1 / (1 + math.exp(-(2 - 2))))
    assert all("document" not in result for result in body["results"])
    assert body["id"].startswith("rr_")
    assert body["model"] == "builtin-large@01234567"
    assert body["meta"]["billed_units"] == {"search_units": 1}
    assert (body["meta"]["pairs"], body["meta"]["pairs_cached"]) == (3, 0)


async def test_documents_may_be_objects_and_come_back_whole(world) -> None:
    headers = world.tenant("acme", "query")
    sent = {"text": DOCUMENTS[1], "id": "paris"}
    body = ASKED | {"documents": [sent, DOCUMENTS[2]], "return_documents": True, "top_n": 5, "rank_fields": ["text"]}
    results = (await world.client.post("/t/acme/v2/rerank", json=body, headers=headers)).json()["results"]
    assert [result["document"] for result in results] == [{"text": DOCUMENTS[2]}, sent]
    top = (await world.client.post("/t/acme/v2/rerank", json=body | {"top_n": 1}, headers=headers)).json()["results"]
    assert [result["index"] for result in top] == [1]


async def test_model_picks_one_of_the_tenants_two(world) -> None:
    headers = world.tenant("acme", "query", rerankers={"small": "my/small", "large": "my/large"})
    picked = {
        "fathom": "my/large",
        "large": "my/large",
        "my/large": "my/large",
        "fathom-small": "my/small",
        "small": "my/small",
        "my/small": "my/small",
    }
    for name in picked:
        answer = await world.client.post("/t/acme/v2/rerank", json=ASKED | {"model": name}, headers=headers)
        assert answer.status_code == 200, answer.text
    assert [reference for reference, _ in world.scorer.asked] == list(picked.values())
    foreign = await world.client.post("/t/acme/v2/rerank", json=ASKED | {"model": "rerank-v3.5"}, headers=headers)
    assert (foreign.status_code, foreign.json()["errors"][0]["pointer"]) == (422, "/model")
    assert "my/small" in foreign.json()["detail"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"query": ""}, 422),
        ({"query": "   "}, 422),
        ({"query": "x" * 8_193}, 422),
        ({"documents": []}, 422),
        ({"documents": ["x"] * 1_001}, 422),
        ({"documents": [7]}, 422),
        ({"documents": [{"title": "no text"}]}, 422),
        ({"top_n": 0}, 422),
        ({"documents": ["x" * 300_000]}, 413),
    ],
)
async def test_what_is_over_a_limit_is_refused_before_a_pair_is_scored(world, change, status: int) -> None:
    headers = world.tenant("acme", "query")
    answer = await world.client.post("/t/acme/v2/rerank", json=ASKED | change, headers=headers)
    assert answer.status_code == status, answer.text
    assert world.scorer.asked == []


async def test_pairs_are_counted_against_the_tenants_quota(world) -> None:
    headers = world.tenant("acme", "query", quotas={"rerank_pairs_per_minute": 7})
    other = world.tenant("other", "query")
    codes = [(await world.client.post("/t/acme/v2/rerank", json=ASKED, headers=headers)).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    refused = await world.client.post("/t/acme/v2/rerank", json=ASKED, headers=headers)
    assert refused.json()["code"] == "quota_exceeded"
    assert int(refused.headers["retry-after"]) >= 1
    assert (await world.client.post("/t/other/v2/rerank", json=ASKED, headers=other)).status_code == 200


async def test_what_the_scorer_refused_costs_no_quota(world) -> None:
    headers = world.tenant("acme", "query", quotas={"rerank_pairs_per_minute": 3})
    world.scorer.failure = Overloaded("too many pairs wait", retry_after_s=1)
    refused = await world.client.post("/t/acme/v2/rerank", json=ASKED, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    world.scorer.failure = None
    assert (await world.client.post("/t/acme/v2/rerank", json=ASKED, headers=headers)).status_code == 200


async def test_a_quota_of_nothing_allows_nothing(world) -> None:
    headers = world.tenant("acme", "query", quotas={"rerank_pairs_per_minute": 0})
    assert (await world.client.post("/t/acme/v2/rerank", json=ASKED, headers=headers)).status_code == 429


async def test_a_model_that_is_away_is_503_with_a_time_to_come_back(world) -> None:
    headers = world.tenant("acme", "query")
    world.scorer.failure = Unavailable("the large reranker is not there; try again", retry_after_s=2)
    answer = await world.client.post("/t/acme/v2/rerank", json=ASKED, headers=headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


async def test_only_a_key_of_the_tenant_opens_it(world) -> None:
    world.tenant("acme", "query")
    stranger = world.tenant("other", "query")
    assert (await world.client.post("/t/acme/v2/rerank", json=ASKED)).status_code == 401
    assert (await world.client.post("/t/acme/v2/rerank", json=ASKED, headers=stranger)).status_code == 404


@pytest.fixture
async def through(world) -> AsyncIterator[httpx.Client]:
    """An HTTP client for foreign libraries: what it sends goes through the application, in this event loop."""
    loop = asyncio.get_running_loop()

    def send(request: httpx.Request) -> httpx.Response:
        async def answer() -> httpx.Response:
            got = await world.client.request(
                request.method, request.url.raw_path.decode(), content=request.content, headers=request.headers
            )
            return httpx.Response(got.status_code, headers=got.headers, content=got.content)

        return asyncio.run_coroutine_threadsafe(answer(), loop).result(30)

    with httpx.Client(transport=httpx.MockTransport(send)) as client:
        yield client


async def test_coheres_own_client_is_served(world, through: httpx.Client) -> None:
    key = world.tenant("acme", "query")["Authorization"].removeprefix("Bearer ")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its generated code warns about itself
        options = {"api_key": key, "base_url": "http://gateway/t/acme", "httpx_client": through}
        new, old = cohere.ClientV2(**options), cohere.Client(**options)
        ask = {"query": ASKED["query"], "documents": DOCUMENTS, "top_n": 2}
        answer = await asyncio.to_thread(new.rerank, model="fathom", **ask)
        assert [result.index for result in answer.results] == [2, 1]
        assert answer.results[0].relevance_score > answer.results[1].relevance_score
        assert answer.meta.billed_units.search_units == 1
        with_documents = await asyncio.to_thread(old.rerank, model="fathom-small", return_documents=True, **ask)
        assert [result.document.text for result in with_documents.results] == [DOCUMENTS[2], DOCUMENTS[1]]
        with pytest.raises(ApiError) as caught:
            await asyncio.to_thread(new.rerank, model="unknown", **ask)
        assert caught.value.status_code == 422
        assert caught.value.body["code"] == "invalid_field"
