"""Simulated users, hostile ones too, over real stores: what is learned of them, and of which tenant."""

import asyncio
import tempfile
import tracemalloc
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.evaluation.answers import measuring_scope
from jobs.evaluation.memory_index import MemoryIndex
from jobs.training.feedback import WEIGHTS, feedback_tenants, mined_of, read_ledger, read_showings
from jobs.training.opinions import Ledger, Opinion, question_key
from jobs.training.order import Order
from jobs.training.propensity import prior
from jobs.training.searching import search
from services.audit.log import open_audit_log
from services.audit.reading import AuditReader
from services.audit.tables import CHAIN, TEXTS
from services.contracts import AuditRecord, AuditText, Passage, Span
from tenants.config import TenantConfig
from tenants.database import Database
from tenants.errors import InvalidInput, NotFound
from tenants.scope import TenantScope
from tenants.store import open_store

TOPICS = ("tide", "copper", "violin", "glacier", "harvest", "orbit")
LOOKS = {"search": prior(), "answer": prior()}
BIAS = 0.5  # a rank is looked at with 1 / rank^BIAS: less steep than what is believed without data


class Words:
    """Hashed words as unit vectors: near where words are shared, which is all that these tests ask of an encoder."""

    info = SimpleNamespace(recipe=SimpleNamespace(query_prefix=""))

    def encode(self, texts):
        return np.stack([self.encode_query(text) for text in texts])

    def encode_query(self, text):
        vector = np.full(64, 1e-3, np.float32)
        for word in text.lower().split():
            vector[sum(word.encode()) % 64] += 1
        return vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def index():
    """Ten passages a topic; each question asks for one of them, by its number."""
    texts = [f"The {topic} of entry number{n} tells of it" for topic in TOPICS for n in range(10)]
    passages = [
        Passage(f"c_{n}", f"d_{n}", "", "", text, "default", 0, Span(0, len(text)), None, None, {}, 9)
        for n, text in enumerate(texts)
    ]
    return MemoryIndex(Words(), (), (passages, Words().encode(texts)))


@pytest.fixture
def places(tmp_path):
    opened = Places(tmp_path)
    yield opened
    opened.close()


@dataclass
class Places:
    """A control plane and an audit log with two tenants."""

    folder: Path
    scopes: dict = field(default_factory=dict)

    def __post_init__(self):
        self.store = open_store(f"sqlite:///{self.folder}/control.db", pepper=b"0" * 32)
        self.url = f"sqlite:///{self.folder}/audit.db"
        self.log = open_audit_log(self.url)
        self.database = Database(self.url)
        self.audit = AuditReader(self.database)
        self.numbers = count()
        for name in ("acme", "other"):
            tenant = self.store.create_tenant(name, TenantConfig())
            self.scopes[name] = TenantScope(tenant.name, tenant.uid, tenant.config, str(self.folder))

    def close(self):
        self.store.close()
        self.database.close()

    def show(self, tenant, *asked):
        """Audit records of (question, shown); their query ids."""
        ids = [f"q_{next(self.numbers):032x}" for _ in asked]

        async def append_all():
            rows = zip(ids, asked, strict=True)
            await asyncio.gather(*(self.log.append(self.scopes[tenant], record(*row)) for row in rows))

        asyncio.run(append_all())
        return ids

    def judge(self, tenant, query, **body):
        self.store.add_feedback(self.scopes[tenant], query, body)

    def ledger(self, tenant):
        return read_ledger(self.store, self.audit, self.scopes[tenant])


def record(query, asked):
    question, shown = asked
    facts = {"query_id": query, "state": "complete", "evidence": list(shown), "answer": None}
    return AuditRecord(query, 0, facts, (AuditText("query", question),))


def mine(index, opinions):
    texts = [one.text for one in opinions]
    found = asyncio.run(search(range(len(texts)), texts, measuring_scope("words", 64), index))
    return mined_of(opinions, found, "feedback-acme")


def by_text(mined):
    """{question: its row, with ids of chunks for places}."""
    names = mined.passages["document_id"].to_pylist()
    rows = mined.questions.to_pylist()
    for row in rows:
        row |= {name: [names[place] for place in row[name]] for name in ("positives", "ranking", "refused")}
    return {row["text"]: row for row in rows}


def ask_around(places, index, showings=12, seed=5):
    """Users of acme: each question's ten best in an order that changes, looks that fade, clicks on what is asked for.

    Most showings get no click and so no feedback. Gives {question: its gold chunk}.
    """
    rng = np.random.default_rng(seed)
    gold, asked = {}, []
    for number, (topic, n) in enumerate((topic, n) for topic in TOPICS for n in range(10)):
        text = f"{topic} entry number{n}"
        gold[text] = f"c_{number}"
        found = index.candidates(text, Words().encode_query(text))
        best = sorted(range(len(found.passages)), key=lambda row: -found.dense[row])[:10]
        for _ in range(showings):
            shuffled = rng.permutation(best) if rng.random() < 0.7 else best
            asked.append((text, [found.passages[row].chunk_id for row in shuffled]))
    for query, (text, shown) in zip(places.show("acme", *asked), asked, strict=True):
        rank = shown.index(gold[text]) + 1 if gold[text] in shown else None
        if rank and rng.random() < 0.9 * rank**-BIAS:
            places.judge("acme", query, clicked=[gold[text]])
    return gold


def test_users_who_click_by_what_they_asked_for_are_understood(places, index):
    gold = ask_around(places, index)
    ledger = places.ledger("acme")
    looks = ledger.examination()
    assert looks["search"].clicks > 200
    assert looks["search"].eta == pytest.approx(BIAS, abs=0.2)
    opinions = ledger.opinions(looks)
    rows = by_text(mine(index, opinions))
    assert len(rows) > 50
    for text, row in rows.items():
        assert row["positives"] == [gold[text]]
        assert gold[text] not in row["refused"]
        if row["split"] == "train":
            assert gold[text] not in row["ranking"]
            assert row["ranking"][4 : 4 + len(row["refused"])] == row["refused"]
    weights = np.array([row["weight"] for row in rows.values()])
    assert weights.mean() == pytest.approx(1.0, abs=0.05)
    assert all(WEIGHTS[0] <= weight <= WEIGHTS[1] for weight in weights)
    # Every question is as easy as any other: what is left of the bias in the weights is chance, not rank.
    worth = [opinion.positives[gold[opinion.text]] for opinion in opinions]
    assert np.mean(worth) == pytest.approx(0.9, abs=0.15)


def test_without_showings_that_nobody_clicked_the_bias_would_not_be_seen(places, index):
    """Every showing of a judged question with one answer has its click: where it stood seems to make no difference."""
    ask_around(places, index)
    blind = read_showings(places.store, places.audit, places.scopes["acme"])
    assert Ledger(blind.values()).examination()["search"].at(10) > 0.8


def test_a_question_clicked_far_down_weighs_more_than_one_clicked_at_the_top(index):
    opinions = [
        Opinion("tide entry number1", {"c_1": LOOKS["search"].weight(1)}, clicks=True),
        Opinion("copper entry number2", {"c_12": LOOKS["search"].weight(8)}, clicks=True),
        Opinion("orbit entry number3", {"c_53": 1.0}),
    ]
    rows = by_text(mine(index, opinions))
    weights = [rows[one.text]["weight"] for one in opinions]
    assert weights == pytest.approx([1 / 4.5, 8 / 4.5, 1.0], rel=1e-5)


def test_refused_chunks_stand_where_hard_negatives_begin_and_doubtful_ones_nowhere(index):
    told = Opinion("tide entry number1", {"c_1": 1.0}, ("c_3", "c_2"), frozenset({"c_4"}))
    (row,) = by_text(mine(index, [told])).values()
    assert row["split"] == "train"
    assert row["ranking"][4:6] == row["refused"] == ["c_3", "c_2"]
    assert {"c_1", "c_4"}.isdisjoint(row["ranking"])
    assert len(row["fused"]) == len(row["ranking"])


def test_a_dev_question_keeps_its_whole_list(index):
    opinions = [Opinion(f"tide entry number{n % 10} {n}", {"c_1": 1.0}, ("c_2",)) for n in range(60)]
    rows = by_text(mine(index, opinions)).values()
    dev = [row for row in rows if row["split"] == "dev"]
    assert 0 < len(dev) < 20
    assert all("c_1" in row["ranking"] and row["fused"] == sorted(row["fused"], reverse=True) for row in dev)


def test_chunks_that_are_gone_leave_no_question(index):
    with pytest.raises(InvalidInput, match="no chunk that the feedback likes"):
        mine(index, [Opinion("tide", {"c_99": 1.0})])


NAMES = st.lists(st.sampled_from([f"{owner}{n}" for owner in "ao" for n in range(5)]), max_size=4)
GIVEN = st.tuples(
    st.sampled_from(["acme", "other"]),  # who says so
    st.integers(0, 7),  # of which query; 0-2 are acme's, 3-5 other's, 6 and 7 nobody's
    st.sampled_from(["clicked", "relevant", "irrelevant"]),
    NAMES,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(GIVEN, max_size=12))
def test_nothing_of_another_tenant_or_never_shown_is_learned(given_feedback):
    """Whatever tenants say about each other's queries and chunks: acme's opinions hold acme's showings only."""
    with tempfile.TemporaryDirectory() as folder:
        places = Places(Path(folder))
        shown = {"acme": ("a0", "a1", "a2"), "other": ("o0", "o1", "o2")}
        ids = [
            query
            for tenant in shown
            for query in places.show(tenant, *((f"{tenant} asks {n}", shown[tenant]) for n in range(3)))
        ]
        ids += [f"q_{n:032x}" for n in (77, 78)]
        expected = defaultdict(set)
        for tenant, query, mark, chunks in given_feedback:
            places.judge(tenant, ids[query], **{mark: chunks})
            own = query // 3 == ["acme", "other"].index(tenant)
            if own and mark != "irrelevant" and {*chunks} & {*shown[tenant]}:
                expected[tenant].add(f"{tenant} asks {query % 3}")
        for tenant, allowed in shown.items():
            opinions = places.ledger(tenant).opinions(LOOKS)
            texts = {one.text for one in opinions}
            assert texts <= expected[tenant]
            if not any(mark == "irrelevant" for _, _, mark, _ in given_feedback):
                assert texts == expected[tenant]
            named = {chunk for one in opinions for chunk in (*one.positives, *one.refused, *one.unsure)}
            assert named <= set(allowed)
        places.close()


def test_erased_questions_and_unknown_queries_are_left_out(places):
    kept, erased = places.show("acme", ("kept", "ab"), ("erased", "ab"))
    for query in (kept, erased, f"q_{99:032x}"):
        places.judge("acme", query, relevant=["a"])
    with places.database.writing() as connection:
        seq = CHAIN.select().where(CHAIN.c.query_id == erased)
        row = connection.execute(seq).one()
        connection.execute(TEXTS.delete().where(TEXTS.c.writer == row.writer, TEXTS.c.seq == row.seq))
    assert [one.text for one in places.ledger("acme").opinions(LOOKS)] == ["kept"]
    places.audit.expire(places.scopes["acme"].uid, 1, now_ms=10 * 86_400_000)
    assert places.ledger("acme").opinions(LOOKS) == []


def test_records_are_read_in_pages_as_they_are_read_alone(places):
    """More than a page of them; a query that another tenant asked is as unknown as one that nobody did."""
    ours = places.show("acme", *((f"question {n}", "abc") for n in range(300)))
    (theirs,) = places.show("other", ("question", "abc"))
    uid = places.scopes["acme"].uid
    found = list(places.audit.read_many(uid, [*ours, *ours, theirs, f"q_{99_999:032x}"]))
    assert found == [places.audit.read(uid, query) for query in sorted(ours)]
    assert list(places.audit.read_many(uid, [])) == []


def test_a_flood_of_feedback_is_read_in_pages_and_kept_small():
    """A hundred thousand rows that each name three hundred chunks, of a thousand queries; a fake store makes them."""
    body = {mark: [f"{mark}{n}" * 4 for n in range(99)] + ["b"] for mark in ("clicked", "relevant", "irrelevant")}
    rows = [SimpleNamespace(query_id=f"q_{n % 1_000:032x}", body=body) for n in range(1_000)]

    class Flood:
        pages = 0

        def list_feedback(self, scope, cursor, limit):
            self.pages += 1
            copies = [SimpleNamespace(query_id=row.query_id, body={**row.body}) for row in rows[:limit]]
            return copies, str(self.pages) if self.pages < 100 else None

    class Audit:
        asked = 0

        def read_many(self, uid, query_ids):
            self.asked += len(query_ids)
            for query in query_ids:
                yield {"query_id": query, "texts": {"query": "why"}, "evidence": [*"abc"]}

    store, audit = Flood(), Audit()
    tracemalloc.start()
    found = read_showings(store, audit, SimpleNamespace(uid="t"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (store.pages, audit.asked, len(found)) == (100, 1_000, 1_000)
    assert all(one.clicked == one.relevant == one.irrelevant == {2} for one in found.values())
    assert peak < 5_000_000


def tenants(places, **order):
    return [one.name for one in feedback_tenants(places.store, Order(from_feedback=True, **order))]


def test_one_tenant_needs_no_consent_and_several_need_everybodys(places):
    assert tenants(places, tenants=("acme",)) == ["acme"]
    with pytest.raises(InvalidInput, match="acme, other did not opt in"):
        tenants(places, tenants=("acme", "other"))
    with pytest.raises(InvalidInput, match="no tenant opted in"):
        tenants(places, pooled=True)
    pooling = TenantConfig.model_validate({"feedback": {"pool": True}})
    places.store.update_config("acme", pooling)
    with pytest.raises(InvalidInput, match="tenant: other did not opt in"):
        tenants(places, tenants=("acme", "other"))
    assert tenants(places, pooled=True) == ["acme"]
    places.store.update_config("other", pooling)
    assert tenants(places, tenants=("acme", "other")) == tenants(places, pooled=True) == ["acme", "other"]
    places.store.set_state("other", "suspended")
    assert tenants(places, pooled=True) == ["acme"]


def test_a_tenant_that_is_deleted_or_unknown_has_no_feedback(places):
    places.store.set_state("acme", "deleting")
    for name in ("acme", "nobody"):
        with pytest.raises(NotFound):
            tenants(places, tenants=(name,))


def test_questions_are_the_same_whatever_their_case_and_spaces():
    assert question_key("  When does\tit LEAVE ") == question_key("when does it leave")
