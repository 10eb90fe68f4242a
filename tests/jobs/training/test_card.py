"""What a model's card says of its data, and of whom it learned."""

from dataclasses import replace

from jobs.training.card import CardFacts, DataLine, card_of

LABELS = DataLine("topics", 90, 96, "d1", "CC BY 4.0")
FEEDBACK = DataLine("feedback-acme", 40, 300, "d2", "the tenant's own", "questions")
FACTS = CardFacts(
    name="fathom-rerank-large",
    parameters=22_000_000,
    layers=6,
    base="builtin",
    teacher=None,
    command="python -m jobs.training.reranker --data topics",
    date="2026-11-26",
    machine="2 cores",
    data=[LABELS],
    training={"steps": 30},
    dev={"topics": {0.0: 0.5, 0.5: 0.6}},
    depth=30,
)


def test_a_model_of_labels_says_nothing_of_clicks():
    card = card_of(FACTS)
    assert "no document that such a split judges" in card
    assert "click" not in card
    assert "alone" not in card.split("## Data")[0]


def test_a_model_of_feedback_says_whose_and_how_it_was_measured():
    card = card_of(replace(FACTS, name="fathom-rerank-large-acme", data=[FEEDBACK], owner="acme"))
    assert "the feedback of the tenant `acme`, for that tenant alone" in card
    assert "inverse of the estimated chance" in card
    assert "no document that such a split judges" not in card
    assert "feedback-acme | 40 | 300 | the tenant's own" in card


def test_a_model_of_both_says_both():
    card = card_of(replace(FACTS, data=[LABELS, FEEDBACK]))
    assert "no document that such a split judges" in card
    assert "inverse of the estimated chance" in card
