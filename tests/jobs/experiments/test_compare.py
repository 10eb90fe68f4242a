"""Two variants through the real line over a real table, what is told of them, and what MLflow is given."""

import asyncio
import io
import json
from contextlib import redirect_stdout
from dataclasses import replace

import numpy as np
import pytest

from cluster.cli.compare_verb import lines_of, rows_of, show
from cluster.cli.comparing import forgetful, read_overrides, resolve, run_comparison
from cluster.cli.output import Output
from jobs.evaluation.answering import Written
from jobs.evaluation.datasets import Dataset
from jobs.evaluation.pipeline import Asked, Plan, Unrecorded
from jobs.experiments.compare import Side, compare, document_of, figure_of, page_of, scope_of
from jobs.tracking import run
from services.embedding.queries import QueryEncoder
from services.evidence.extract import ExtractiveAnswerer
from services.experiments.spec import parse_spec
from services.query import Steps
from services.reranking.adaptive import AdaptiveReranker
from services.retrieval.search import LocalRetriever
from services.settings import Retrieval, Settings
from tenants.config import TenantConfig
from tenants.corpus import release as releases
from tenants.corpus.lease import acquire
from tenants.errors import InvalidInput, NotFound, Unavailable
from tenants.scope import TenantScope
from tests import fakes
from tests.services.retrieval.conftest import Row, publish, unit

TOPICS = [f"topic{number}" for number in range(30)]
QUALITY = ["ndcg@10", "recall@100", "mrr@10", "map@100"]
OFF = Settings(mlflow_tracking_uri="off")
PLAIN = Side("champion")
NEVER = Side("never.yaml", {"rerank": {"policy": "never"}})
DENSE = Side("dense.yaml", {"fusion": {"weight": 1.0}, "rerank": {"policy": "never"}})
SPARSE = Side("sparse.yaml", {"fusion": {"weight": 0.0}, "rerank": {"policy": "never"}})


class TopicEncoder:
    """Knows nothing of the topics: what full text finds, the dense leg does not, so the better side is known."""

    dimension = 8

    class info:  # noqa: N801 - stands where an encoder's info stands
        class recipe:  # noqa: N801
            query_prefix = ""

    def encode(self, texts):
        return unit(np.stack([np.random.default_rng(list(text.encode())).standard_normal(8) for text in texts]))


@pytest.fixture
def scope(tmp_path):
    scope = TenantScope("acme", "t_test", TenantConfig(rerank={"policy": "always"}), str(tmp_path))
    vectors = unit(np.random.default_rng(0).standard_normal((60, 8)))
    rows = [Row(f"d{n % 30}", f"{TOPICS[n % 30]} is treated here, part {n // 30}", vectors[n]) for n in range(60)]
    written = asyncio.run(publish(scope, rows))
    with acquire(scope, "test") as lease:
        releases.publish(scope, written.release, lease)
    return scope


@pytest.fixture
def scorer():
    return fakes.FakeScorer()


@pytest.fixture
def steps(scorer):
    retriever = LocalRetriever(QueryEncoder(lambda _: TopicEncoder()), Retrieval(leg_timeout_s=300))
    return Steps(retriever, AdaptiveReranker(scorer), ExtractiveAnswerer(retriever), Unrecorded())


def dataset():
    queries = {f"q{n}": f"what about {topic}" for n, topic in enumerate(TOPICS)}
    return Dataset(queries, {f"q{n}": {f"d{n}": 1} for n in range(30)}, "digest", {"q0": ("topic0 is treated here",)})


def test_the_better_side_is_found_and_said(scope, steps):
    seen = []
    found = compare(dataset(), scope, (DENSE, SPARSE), steps, OFF, Plan(), lambda *counts: seen.append(counts))
    assert list(found["metrics"]) == QUALITY
    assert seen[-1] == (30, 30)
    line = found["metrics"]["ndcg@10"]
    assert line["b"] == 1.0 > line["a"]
    assert line["difference"] == pytest.approx(line["b"] - line["a"], abs=2e-6)
    assert 0 < line["lower"] <= line["difference"] <= line["upper"]
    assert line["p"] <= line["p_holm"] <= 0.05
    assert line["wins"] + line["ties"] == line["n"] == found["queries"] == 30
    assert found["verdict"]["winner"] == "b"
    assert found["verdict"]["claim"].startswith("B (sparse.yaml) is better in ndcg@10")
    assert len(found["gains"]) == 5
    assert found["losses"] == []
    assert found["gains"][0]["difference"] == max(b - a for a, b in found["per_query"]["ndcg@10"].values())
    assert (found["a"]["changes"][0], found["runs"]) == (
        {"key": "fusion.weight", "before": "null", "after": "1.0"},
        {"a": None, "b": None},
    )


def test_turned_around_the_other_side_wins(scope, steps):
    found = compare(dataset(), scope, (SPARSE, DENSE), steps, OFF, Plan())
    assert found["verdict"]["winner"] == "a"
    assert found["gains"] == []
    assert found["losses"][0]["difference"] < 0
    assert [row["difference"] for row in found["losses"]] == sorted(row["difference"] for row in found["losses"])


def test_what_reranking_costs(scope, steps, scorer):
    found = compare(dataset(), scope, (PLAIN, NEVER), steps, OFF, Plan(limit=6))
    pairs = found["costs"]["pairs"]
    assert pairs["a"] > 0 == pairs["b"]
    assert (pairs["better"], pairs["wins"], pairs["losses"]) == ("lower", 6, 0)
    assert found["costs"]["latency_ms"]["n"] == 6
    assert found["a"]["pairs_per_query"] == pairs["a"]
    assert sum(count for _, count in scorer.asked) == sum(a for a, _ in found["per_query"]["pairs"].values()) * 7 / 6
    assert "pairs a question" in found["verdict"]["reason"]
    assert found["notes"] == ()


def test_equal_sides_are_equal(scope, steps):
    found = compare(dataset(), scope, (NEVER, Side("again", NEVER.overrides)), steps, OFF, Plan(limit=3))
    assert found["verdict"] | {"reason": ""} == {
        "winner": None,
        "claim": "Both sides are equal in every metric on every question.",
        "reason": "",
    }
    assert {line["p_holm"] for line in found["metrics"].values()} == {1.0}
    assert found["notes"] == ("Both sides have the same configuration.",)
    assert found["a"]["changes"] == [{"key": "rerank.policy", "before": "always", "after": "never"}]


def test_one_question_shows_nothing(scope, steps):
    found = compare(dataset(), scope, (DENSE, SPARSE), steps, OFF, Plan(limit=1))
    assert found["metrics"]["ndcg@10"]["lower"] is None
    assert found["verdict"]["winner"] is None
    assert page_of(found)


def test_what_a_side_lacked_is_said(scope, steps, scorer):
    scorer.failure = Unavailable("the model is away", retry_after_s=1)
    found = compare(dataset(), scope, (PLAIN, NEVER), steps, OFF, Plan(limit=2))
    assert found["notes"] == ("A: 2 of 2 questions had reranker_unavailable.",)


def test_what_only_answers_can_show_is_said(scope, steps):
    few = Side("few", {"answer": {"evidence": 2}})
    found = compare(dataset(), scope, (PLAIN, few), steps, OFF, Plan(limit=2, rerank="never"))
    assert "only in answer, which only answers can show" in found["notes"][0]
    assert found["notes"][1].startswith("Every question was asked with rerank never")
    answered = compare(dataset(), scope, (PLAIN, few), steps, OFF, Plan(limit=2, rerank="never", answers=True))
    assert len(answered["notes"]) == 1
    assert answered["metrics"].keys() >= {"correct", "token_f1"}
    assert answered["metrics"]["token_f1"]["n"] == 1  # one question has gold answers
    assert answered["costs"].keys() == {"pairs", "latency_ms", "answer_ms", "tokens"}


def test_an_abstention_has_no_word_of_the_gold_answer(scope):
    asked = {}
    for place, grounded, figures in (
        ("a", "abstained", {"correct": 0.0}),
        ("b", "full", {"correct": 1.0, "token_f1": 0.5}),
    ):
        written = Written(grounded, "extractive", None, {"answerable": 1.0, **figures}, 1.0, 2.0, 0)
        asked[place] = {name: Asked((), 0, 1.0, (written,)) for name in ("q0", "q1")}
    two = replace(dataset(), queries={"q0": "", "q1": ""})
    scopes = {"a": scope, "b": scope}
    found = document_of(asked, two, scope, scopes, (PLAIN, PLAIN), Plan(answers=True))
    assert (found["metrics"]["token_f1"]["a"], found["metrics"]["token_f1"]["b"]) == (0.0, 0.5)
    assert (found["metrics"]["token_f1"]["n"], found["metrics"]["correct"]["n"]) == (1, 2)
    assert "citation_precision" not in found["metrics"]


def test_refusals_name_the_side(scope, steps, tmp_path):
    with pytest.raises(InvalidInput, match="no judged question"):
        compare(Dataset({}, {}, ""), scope, (PLAIN, NEVER), steps, OFF, Plan())
    with pytest.raises(InvalidInput, match="no published index"):
        compare(dataset(), replace(scope, root=str(tmp_path / "none")), (PLAIN, NEVER), steps, OFF, Plan())
    with pytest.raises(InvalidInput, match=r"odd\.yaml: .*quotas"):
        compare(dataset(), scope, (PLAIN, Side("odd.yaml", {"quotas": {}})), steps, OFF, Plan())
    with pytest.raises(InvalidInput, match=r"odd\.yaml: .*did you mean rerank\.price"):
        scope_of(scope, Side("odd.yaml", {"rerank": {"prize": 1}}))
    with pytest.raises(InvalidInput, match=r"x: .*cannot change embedder"):  # one index, one embedder
        scope_of(scope, Side("x", {"embedder": "other"}))


@pytest.mark.filterwarnings("default")  # MLflow's own
def test_mlflow_gets_a_run_over_two_and_no_text(scope, steps, tmp_path):
    from mlflow import MlflowClient

    settings = Settings(data_dir=str(tmp_path / "data"))
    side = Side("wordy.yaml", {"answer": {"instructions": "Speak of Bluebird."}, "rerank": {"policy": "never"}})
    found = compare(dataset(), scope, (PLAIN, side), steps, settings, Plan(limit=4))
    client = MlflowClient(tracking_uri=settings.mlflow_uri)
    above = client.get_run(found["run_id"])
    below = {place: client.get_run(run_id) for place, run_id in found["runs"].items()}
    assert client.get_experiment(above.info.experiment_id).name == "fathom/ab/offline"
    assert {one.info.status for one in (above, *below.values())} == {"FINISHED"}
    assert "mlflow.parentRunId" not in above.data.tags
    assert {one.data.tags["mlflow.parentRunId"] for one in below.values()} == {found["run_id"]}
    assert (below["a"].info.run_name, below["b"].info.run_name) == ("A champion", "B wordy.yaml")
    assert (above.data.params["a"], above.data.params["b"]) == ("champion", "wordy.yaml")
    params = below["b"].data.params
    assert (params["override.rerank.policy"], params["dataset_digest"], params["index_version"]) == (
        "never",
        "digest",
        "1",
    )
    assert params["override.answer.instructions"] == params["prompt"] != below["a"].data.params["prompt"]
    assert above.data.metrics["ndcg_at_10_p_holm"] == found["metrics"]["ndcg@10"]["p_holm"]
    assert below["a"].data.metrics["pairs_per_query"] == found["a"]["pairs_per_query"]
    kept = {one.path for one in client.list_artifacts(found["run_id"])}
    assert kept == {"comparison.json", "report.html", "comparison.png"}
    files = [path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert any(b"<!doctype html>" in one for one in files)
    assert not any(word in one for one in files for word in (b"what about", b"is treated here", b"Bluebird"))


def test_without_a_parent_s_run_a_child_is_a_run_of_its_own(tmp_path):
    with run(OFF, "fathom/test", {}) as above, run(OFF, "fathom/test", {}, above) as below:
        below.text("nothing", "x.txt")
    assert (above.run_id, below.run_id) == (None, None)


def test_the_page_and_the_plot_come_from_the_document(scope, steps):
    found = compare(dataset(), scope, (DENSE, SPARSE), steps, OFF, Plan())
    again = json.loads(json.dumps(found))
    assert page_of(again) == page_of(found)
    assert "what about" not in page_of(found)
    query = found["gains"][0]["query"]
    assert "&lt;b&gt; what about" in page_of(found, {query: "<b> what about"})
    assert len(figure_of(again).axes) == 2


def test_what_a_person_reads(scope, steps):
    found = compare(dataset(), scope, (DENSE, SPARSE), steps, OFF, Plan())
    hostile = "[red]what[/] about\x1b[31m " + "a" * 200
    found["gains"] = [row | {"text": hostile} for row in found["gains"]]
    assert [row[0] for row in rows_of(found)] == [*QUALITY, "pairs", "latency_ms"]
    assert rows_of(found)[0][-1] == f"{found['metrics']['ndcg@10']['wins']}/0"
    assert rows_of(found)[-1][5] == "–"
    lines = lines_of(found)
    assert lines[0] == found["verdict"]["claim"]
    shown = next(line for line in lines if "[red]what[/] about" in line)
    assert "\x1b" not in shown
    assert shown.endswith("a…")
    with redirect_stdout(io.StringIO()) as out:
        show(Output(as_json=False), found)
    assert "A  dense.yaml: fusion.weight null → 1.0, rerank.policy always → never" in out.getvalue()
    assert "[red]what[/] about" in out.getvalue()
    with redirect_stdout(io.StringIO()) as out:
        show(Output(as_json=True), found)
    assert json.loads(out.getvalue())["verdict"] == found["verdict"]


LOW = {"rerank": {"price": 0.4}}
SPEC = {"name": "cheaper", "tenants": ["acme"], "arms": [{"name": "control"}, {"name": "low", "overrides": LOW}]}


def specs(name):
    if name != "cheaper":
        raise NotFound(f"there is no experiment {name}")
    return SPEC


def test_names_of_sides(tmp_path):
    assert parse_spec(SPEC)
    file = tmp_path / "low.yaml"
    file.write_text("rerank: {price: 0.4}\n")
    assert resolve("champion", specs) == Side("champion", {})
    assert resolve(str(file), specs) == Side(str(file), {"rerank": {"price": 0.4}})
    assert resolve("cheaper/low", specs) == Side("cheaper/low", {"rerank": {"price": 0.4}})
    assert resolve("cheaper/control", specs).overrides == {}
    for name, error, words in (
        ("other/low", NotFound, "no experiment other"),
        ("cheaper/lower", InvalidInput, "it has control, low"),
        ("cheaper", InvalidInput, "is no variant"),
        ("a/b/c", InvalidInput, "is no variant"),
        (str(tmp_path / "none.yaml"), InvalidInput, "cannot be read"),
    ):
        with pytest.raises(error, match=words):
            resolve(name, specs)


def test_files_of_overrides(tmp_path):
    file = tmp_path / "x.json"
    for text, overrides in (("", {}), ("{}", {}), ('{"rerank": null}', {"rerank": None})):
        file.write_text(text)
        assert read_overrides(file) == overrides
    for text in ("[1]", "a: [", "words"):
        file.write_text(text)
        with pytest.raises(InvalidInput):
            read_overrides(file)


def test_a_comparison_s_scorer_remembers_nothing():
    settings = Settings(redis_url="redis://x", mlflow_tracking_uri="off")
    assert (forgetful(settings).redis_url, forgetful(settings).reranking.cache_bytes) == (None, 0)
    assert forgetful(settings).reranking.models == settings.reranking.models


def test_missing_files_and_folders_are_said_before_any_work(tmp_path):
    file = tmp_path / "queries.jsonl"
    file.touch()
    names = ("champion", "champion")
    with pytest.raises(InvalidInput, match="there is no file"):
        run_comparison(OFF, names, "acme", file, tmp_path / "none.tsv", Plan())
    with pytest.raises(InvalidInput, match="there is no folder"):
        run_comparison(OFF, names, "acme", file, file, Plan(), tmp_path / "none" / "report.html")
