"""The model card that a trained cross-encoder carries: data, licences, command, figures, limits. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.training.mining import HeldOut

HUB_NAMES = {"builtin": "sentence-transformers/all-MiniLM-L6-v2"}


@dataclass(frozen=True, slots=True)
class DataLine:
    """One training set: what was sampled of it, named by a digest, and under which licence."""

    name: str
    questions: int
    passages: int
    digest: str
    licence: str
    held_out: HeldOut = "documents"


@dataclass(frozen=True, slots=True)
class CardFacts:
    """`dev` {set: {blend: nDCG@10}}, blend 0 = the first stage; `training` and `machine` are names and values.

    `owner` is the one tenant whose feedback went into it.
    """

    name: str
    parameters: int
    layers: int
    base: str
    teacher: str | None
    command: str
    date: str
    machine: str
    data: Sequence[DataLine]
    training: Mapping[str, Any]
    dev: Mapping[str, Mapping[float, float]]
    depth: int
    owner: str | None = None


def card_of(facts: CardFacts) -> str:
    """Markdown with the front matter that Hugging Face reads."""
    taught = f", distilled from `{facts.teacher}` by margins of logits" if facts.teacher else ""
    return "\n".join(
        [
            "---",
            "license: apache-2.0",
            "language: en",
            "pipeline_tag: text-ranking",
            f"base_model: {HUB_NAMES.get(facts.base, facts.base)}",
            "---",
            "",
            f"# {facts.name}",
            "",
            f"A cross-encoder of {facts.layers} layers and {facts.parameters / 1e6:.1f} million parameters: question "
            "and passage in, one logit out, higher = more relevant. Trained by `jobs.training.reranker`, "
            f"{facts.date}, {facts.machine}, from `{facts.base}`{taught}.",
            "",
            "The logit is to be *blended* with the first stage's score, never to replace it; the weight is learned per"
            " tenant (`services/reranking`).",
            "",
            *_whose(facts.owner),
            *_data(facts.data),
            *_training(facts),
            *_figures(facts),
            *_LIMITS,
            "",
        ]
    )


def _whose(owner: str | None) -> list[str]:
    return [f"Learned from the feedback of the tenant `{owner}`, for that tenant alone.", ""] if owner else []


def _data(lines: Sequence[DataLine]) -> list[str]:
    rows = [f"| {one.name} | {one.questions:,} | {one.passages:,} | {one.licence} | `{one.digest}` |" for one in lines]
    return [
        "## Data",
        "",
        "| set | questions | passages | licence | digest of the sample |",
        "|---|---|---|---|---|",
        *rows,
        "",
        *[_HELD_OUT[kind] for kind in _HELD_OUT if any(one.held_out == kind for one in lines)],
        "Negatives are what Fathom's own first stage finds. The weights hold no text of the data.",
        "",
    ]


_HELD_OUT: Mapping[HeldOut, str] = {
    "documents": "No question of a dev or test split was trained on, no document that such a split judges was a passage"
    " of the training; of sets without such splits, a tenth of the titles (sha256 ≡ 0 mod 10) was held out.",
    "questions": "Of feedback, a tenth of the questions (by their digest) only measured; their passages may have been"
    " passages of other questions. Positives are chunks that users called relevant, or else clicked where they were"
    " shown, a click weighed by the inverse of the estimated chance that its rank was looked at; what they called"
    " irrelevant or passed over are negatives. Dev figures are by the same clicks and weights, not by judges.",
}


def _training(facts: CardFacts) -> list[str]:
    values = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.training.items())
    return ["## Training", "", f"    {facts.command}", "", f"{values}.", ""]


def _figures(facts: CardFacts) -> list[str]:
    if not facts.dev:
        return ["## Figures", "", "No dev questions were given.", ""]
    blends = sorted({blend for figures in facts.dev.values() for blend in figures})
    shown = [blend for blend in blends if blend in (0.0, 0.3, 0.5, 0.7, 1.0)]
    rows = [
        f"| {name} | " + " | ".join(f"{figures[blend]:.3f}" for blend in shown) + " |"
        for name, figures in facts.dev.items()
    ]
    return [
        "## Figures",
        "",
        f"nDCG@10 on dev questions, depth {facts.depth}, by the blend's weight of σ(logit); 0 is the first stage"
        " (bfloat16).",
        "",
        "| set | " + " | ".join(f"w = {blend:g}" for blend in shown) + " |",
        "|---|" + "---|" * len(shown),
        *rows,
        "",
    ]


_LIMITS = [
    "## Limits",
    "",
    "English. Trained on few domains and for a short time: far from them it may rank worse than the first stage alone,"
    " which is why it is only blended in. Pairs longer than 512 tokens are read in windows. Text that is written for"
    " rankers can raise a logit; see `services/reranking/defences.py`.",
]
