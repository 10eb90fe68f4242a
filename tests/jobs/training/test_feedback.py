"""A tenant's feedback becomes mined questions of that tenant alone."""

import asyncio

import pytest

from jobs.evaluation.answers import measuring_scope
from jobs.evaluation.memory_index import MemoryIndex
from jobs.training.feedback import Opinion, mine_opinions, read_opinions
from services.audit.log import open_audit_log
from services.audit.reading import AuditReader
from services.contracts import AuditRecord, AuditText
from services.embedding.encoder import load_encoder
from services.models import BUILTIN
from tenants.config import TenantConfig
from tenants.database import Database
from tenants.errors import InvalidInput
from tenants.scope import TenantScope
from tenants.store import open_store

DOCUMENTS = [
    {"_id": f"d{n}", "title": "", "text": text}
    for n, text in enumerate(
        (
            "The ferry leaves at nine in the morning.",
            "The ferry is painted blue.",
            "Tickets for the ferry cost four coins.",
            "The ferry crew has twelve members.",
            "A ferry needs deep water.",
            "The old ferry sank long ago.",
        )
    )
]
ASKED = "when does the ferry leave"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return MemoryIndex(load_encoder(BUILTIN, cache_dir=str(tmp_path_factory.mktemp("models"))), DOCUMENTS)


def mine(index, opinions):
    return asyncio.run(mine_opinions(opinions, measuring_scope(BUILTIN, 384), index))


def test_relevant_chunks_are_positives_and_irrelevant_ones_hard(index):
    opinion = Opinion({"c_0": None}, {"c_1": None})
    mined = mine(index, {ASKED: opinion})
    names = mined.passages["document_id"].to_pylist()
    (row,) = mined.questions.to_pylist()
    assert [names[place] for place in row["positives"]] == ["c_0"]
    ranked = [names[place] for place in row["ranking"]]
    assert "c_0" not in ranked
    assert row["split"] == "dev" or ranked.index("c_1") == 4


def test_chunks_that_are_gone_leave_no_question(index):
    with pytest.raises(InvalidInput, match="no chunk that the feedback calls relevant"):
        mine(index, {ASKED: Opinion({"c_99": None})})


def test_a_click_counts_only_where_nothing_was_called_relevant():
    opinion = Opinion()
    opinion.add({"clicked": ["a", "b"], "relevant": ["b"], "irrelevant": ["c"]})
    opinion.add({"clicked": ["d"]})
    assert (list(opinion.relevant), list(opinion.irrelevant)) == (["b", "d"], ["c"])


def test_opinions_are_read_with_their_questions_from_one_tenant_only(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/control.db", pepper=b"0" * 32)
    url = f"sqlite:///{tmp_path}/audit.db"
    log = open_audit_log(url)
    scopes = []
    for number, name in enumerate(("acme", "other")):
        tenant = store.create_tenant(name, TenantConfig())
        scopes.append(TenantScope(tenant.name, tenant.uid, tenant.config, str(tmp_path)))
        query = f"q_{number:032x}"
        record = AuditRecord(query, 0, {"query_id": query}, (AuditText("query", f"asked by {name}"),))
        asyncio.run(log.append(scopes[-1], record))
        store.add_feedback(tenant, query, {"relevant": [f"c_{name}"]})
        store.add_feedback(tenant, query, {"rating": 1})
    store.add_feedback(store.get_tenant("acme"), f"q_{7:032x}", {"relevant": ["expired"]})
    found = read_opinions(store, AuditReader(Database(url)), scopes[0])
    assert {text: list(one.relevant) for text, one in found.items()} == {"asked by acme": ["c_acme"]}
    store.close()
