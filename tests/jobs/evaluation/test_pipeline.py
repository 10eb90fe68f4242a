"""An evaluation through the real line over a real table, and the weight it teaches."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from jobs.evaluation.datasets import Dataset
from jobs.evaluation.fusion_learning import adopt, judge, learn_from_labels, learn_profile, with_profile
from jobs.evaluation.metrics import ndcg
from jobs.evaluation.pipeline import Plan, Unrecorded, evaluate
from services.contracts import Question
from services.embedding.queries import QueryEncoder
from services.evidence.extract import ExtractiveAnswerer
from services.query import Steps
from services.reranking.first_stage import FirstStage
from services.retrieval.fusion import FusionProfile, fuse, profile_of
from services.retrieval.search import LocalRetriever
from services.settings import Retrieval, Settings
from tenants.config import TenantConfig
from tenants.corpus import release as releases
from tenants.corpus.lease import acquire
from tenants.errors import InvalidInput, NotFound
from tenants.scope import TenantScope
from tests.services.retrieval.conftest import Row, publish, unit

TOPICS = [f"topic{number}" for number in range(40)]


class TopicEncoder:
    """Knows nothing of the topics: full text must win here, so the right weight is known beforehand."""

    dimension = 8

    class info:  # noqa: N801 - stands where an encoder's info stands
        class recipe:  # noqa: N801
            query_prefix = ""

    def encode(self, texts):
        return unit(np.stack([np.random.default_rng(list(text.encode())).standard_normal(8) for text in texts]))


@pytest.fixture
def scope(tmp_path):
    scope = TenantScope("acme", "t_test", TenantConfig(), str(tmp_path))
    vectors = unit(np.random.default_rng(0).standard_normal((80, 8)))
    rows = [Row(f"d{n % 40}", f"{TOPICS[n % 40]} is treated here, part {n // 40}", vectors[n]) for n in range(80)]
    written = asyncio.run(publish(scope, rows))
    with acquire(scope, "test") as lease:
        releases.publish(scope, written.release, lease)
    return scope


@pytest.fixture
def steps():
    retriever = LocalRetriever(QueryEncoder(lambda _: TopicEncoder()), Retrieval(leg_timeout_s=300))
    return Steps(retriever, FirstStage(), ExtractiveAnswerer(retriever), Unrecorded())


def dataset():
    queries = {f"q{n}": f"what about {topic}" for n, topic in enumerate(TOPICS)}
    return Dataset(queries, {f"q{n}": {f"d{n}": 1} for n in range(40)}, "digest")


SETTINGS = Settings(mlflow_tracking_uri="off")


def test_report(scope, steps):
    seen = []
    report = evaluate(dataset(), scope, steps, SETTINGS, Plan(limit=20), lambda done, all_: seen.append((done, all_)))
    assert set(report["metrics"]) == {"ndcg@10", "recall@100", "mrr@10", "map@100"}
    assert report["metrics"]["recall@100"] == 1.0
    assert report["queries"] == 20
    assert report["pairs_per_query"] == 0
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert report["run_id"] is None
    assert seen[-1] == (20, 20)


def test_refuses_what_cannot_be_asked(scope, steps, tmp_path):
    with pytest.raises(InvalidInput, match="no judged question"):
        evaluate(Dataset({}, {}, ""), scope, steps, SETTINGS, Plan())
    with pytest.raises(InvalidInput, match="no published index"):
        evaluate(dataset(), replace(scope, root=str(tmp_path / "none")), steps, SETTINGS, Plan())


def test_labels_teach_the_weight(scope, steps):
    pinned = releases.pinned(scope)
    free = FusionProfile(bias=3.0, slope=0.0)

    async def judged():
        items = dataset().queries.items()
        return [await judge(steps.retriever, pinned, text, {f"d{q[1:]}": 1}, free) for q, text in items]

    learned = learn_from_labels(asyncio.run(judged()))
    assert learned.sparse == 1.0 > learned.dense
    assert learned.labels >= learned.sparse - 0.003 > learned.free
    assert learned.profile.weight(0.5) <= 0.5

    published = adopt(scope, learned.profile)
    assert published.version == 2
    assert profile_of(releases.pinned(scope)) == learned.profile
    assert learn_profile(releases.pinned(scope)) == {"fusion": learned.profile.to_json()}  # labels are kept


def test_a_judged_question_is_what_the_line_gives(scope, steps):
    pinned, text, grades = releases.pinned(scope), "what about topic7 part 1", {"d7": 1, "d3": 2}
    one = asyncio.run(judge(steps.retriever, pinned, text, grades, FusionProfile(bias=0.0, slope=0.0)))
    found = asyncio.run(steps.retriever.retrieve(pinned, Question(text)))
    order = fuse(found, "hybrid", FusionProfile(bias=0.0, slope=0.0)).order
    names = list(dict.fromkeys(found.passages[row].document_id for row in order))
    assert one.free == pytest.approx(ndcg(names, grades, 10))
    assert one.curve[10] == pytest.approx(one.free)


def test_without_labels_the_corpus_decides(scope):
    pinned = releases.pinned(scope)
    learned = FusionProfile.from_json(learn_profile(pinned)["fusion"])
    assert learned.source == "corpus"
    assert profile_of(with_profile(pinned, learned)) == learned
    with pytest.raises(NotFound):
        adopt(replace(scope, root=f"{scope.root}/none"), learned)
