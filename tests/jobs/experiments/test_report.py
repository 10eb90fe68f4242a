"""The page as a browser's parser reads it: what is told, that nothing is markup, that nothing is fetched."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from lxml import html
from matplotlib.figure import Figure

from jobs.experiments.report import (
    ArmLine,
    Change,
    Example,
    MetricLine,
    Plot,
    Report,
    changes_between,
    changes_of,
    flattened,
    interval,
    number,
    p_value,
    render,
    signed,
)
from services.experiments.spec import overridden
from services.generation.prompt import version_of
from tenants.config import TenantConfig

PRICE = Change("rerank.price", "null", "0.4")
HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.example onerror=x> {{ 7 * 7 }} & </style></svg>"


def figure(label="units"):
    drawn = Figure(figsize=(4, 3), layout="constrained")
    axes = drawn.subplots()
    axes.plot([1, 2, 3], [0.1, 0.3, 0.2], label=label)
    axes.set(xlabel=label, ylabel="effect", title=label)
    axes.legend()
    return drawn


def report(**fields):
    kept = {
        "title": "cheaper-reranks",
        "kind": "A/B test",
        "generated_at": datetime(2026, 11, 26, 12, 0, tzinfo=UTC),
        "verdict": "cheaper is as good.",
        "reason": "The sequence lies within the tolerance after 812 users.",
        "arms": (ArmLine("control", (), 0.5, 401), ArmLine("cheaper", (PRICE,), 0.5, 411)),
        "tenants": ("t_1", "t_2"),
        "facts": (("dataset", "0f3a"), ("users", "812")),
        "metrics": (MetricLine("clicked", "cheaper", 0.41, 0.43, 0.02, -0.01, 0.05, None, 812),),
        "guardrails": (MetricLine("answer_ms", "cheaper", 310, 250, -60, -80, -40, 4e-4, 812, "lower", "", "held"),),
        "costs": (MetricLine("pairs", "cheaper", 41.2, 12.0, -70.9, -75, None, 0.02, 812, "lower", "%"),),
        "plots": (Plot("clicked", figure(), "the interval narrows"), Plot("answer_ms", figure())),
        "examples": (Example("q_1", 0.2, 0.9), Example("q_2", None, 0.1, "what about a pump?")),
        "notes": ("a note",),
    }  # fmt: skip
    return Report(**(kept | fields))


def texts(page, path):
    return [" ".join(" ".join(node.itertext()).split()) for node in html.fromstring(page).xpath(path)]


def test_everything_is_told():
    page = render(report())
    said = texts(page, "//body")[0]
    for part in (
        "cheaper-reranks", "A/B test", "2026-11-26T12:00:00+00:00", "cheaper is as good.", "after 812 users", "a note",
        "rerank.price", "t_1", "t_2", "0f3a", "the interval narrows", "what about a pump?",
    ):  # fmt: skip
        assert part in said
    rows = texts(page, "//table[caption='Effect = value − control.']/tbody/tr")
    assert rows == ["clicked cheaper 0.4100 0.4300 +0.0200 −0.0100 … +0.0500 – 812 higher"]
    assert texts(page, "//table[caption='Per question.']/tbody/tr") == [
        "pairs cheaper 41.20 12.00 −70.90% −75.00 … –% 0.020 812 lower"
    ]
    assert "< 0.001 812 lower held" in said
    assert texts(page, "//table[thead//th='text']/tbody/tr") == [
        "q_1 0.2000 0.9000 +0.7000",
        "q_2 – 0.1000 – what about a pump?",
    ]


def test_hostile_text_is_text():
    arm = ArmLine(HOSTILE, (Change(HOSTILE, HOSTILE, HOSTILE),))
    line = MetricLine(HOSTILE, HOSTILE, 1, 1, 0, 0, 0, unit=HOSTILE, state=HOSTILE)
    page = render(
        report(
            title=HOSTILE, kind=HOSTILE, verdict=HOSTILE, reason=HOSTILE, arms=(arm,), tenants=(HOSTILE,),
            facts=((HOSTILE, HOSTILE),), metrics=(line,), guardrails=(line,), costs=(line,),
            plots=(Plot(HOSTILE, figure("<a>&\"'"), HOSTILE),), examples=(Example(HOSTILE, 0, 1, HOSTILE),),
            notes=(HOSTILE,),
        )
    )  # fmt: skip
    tree = html.fromstring(page)
    assert tree.xpath("//script | //img | //*[@onerror] | //iframe | //a | //link") == []
    assert len(tree.xpath("//svg")) == 1
    assert "<script" not in page
    assert "49" not in texts(page, "//h1")[0]
    assert HOSTILE in tree.xpath("//h1")[0].text_content()


def test_nothing_is_fetched():
    page = render(report())
    tree = html.fromstring(page)
    policy = tree.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")[0]
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    assert tree.xpath("//@src | //@srcset | //@action | //@poster") == []
    assert {one for one in tree.xpath("//@href | //@*[name()='xlink:href']") if not one.startswith("#")} == set()
    assert set(re.findall(r"url\(([^)]*)", page)) <= set(re.findall(r"url\((#[^)]*)", page))
    assert "@import" not in page
    assert set(re.findall(r"https?://[\w./-]+", page)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_plots_take_the_page_s_colours_and_have_ids_of_their_own():
    page = render(report())
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 2
    assert all("currentColor" in one and "#000000" not in one and "#ffffff" not in one for one in drawings)
    used = [set(re.findall(r"url\(#([^)]*)", one)) | set(re.findall(r'href="#([^"]*)', one)) for one in drawings]
    assert used[0]
    assert not used[0] & used[1]
    assert texts(page, "//figure/@aria-label/..") == texts(page, "//figure")
    assert "prefers-color-scheme: dark" in page


def test_the_same_report_is_the_same_page():
    assert render(report()) == render(report())


def test_a_bare_report_has_no_empty_sections():
    bare = replace(
        report(), facts=(), metrics=(), guardrails=(), costs=(), plots=(), examples=(), notes=(), arms=(ArmLine("a"),)
    )
    assert texts(render(bare), "//h2") == ["What was compared", "On whom"]
    assert "as it is served" in texts(render(bare), "//table")[0]


def test_changes_by_key():
    base = TenantConfig()
    other = overridden(base, {"rerank": {"policy": "never"}, "generator": {"openai": {"base_url": "u", "model": "m"}}})
    assert changes_between(base, other) == (
        Change("rerank.policy", "auto", "never"),
        Change("generator", "auto", "–"),
        Change("generator.openai", "–", '{"base_url": "u", "key_env": null, "model": "m"}'),
    )
    assert changes_between(base, overridden(base, {"rerank": {"policy": "auto"}})) == ()
    assert changes_of({"rerank": {"price": 0.4}, "embedder": "x"}) == (
        Change("rerank.price", "", "0.4"),
        Change("embedder", "", "x"),
    )


def test_a_tenant_s_instructions_are_told_as_their_version():
    words = {"answer": {"instructions": "Never tell of project Bluebird."}}
    assert flattened(words) == {"answer.instructions": version_of(words["answer"]["instructions"])}
    told = str(changes_between(TenantConfig(), overridden(TenantConfig(), words)))
    assert "Bluebird" not in told
    assert "answer.instructions" in told
    assert flattened({"answer": {"instructions": None}}) == {"answer.instructions": version_of()}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.41234, "0.4123"),
        (12.345, "12.35"),
        (-312.4, "−312"),
        (-1e-9, "0.0000"),
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_signs_intervals_and_p():
    assert (signed(0.031), signed(-1.2), signed(0.0), signed(None)) == ("+0.0310", "−1.20", "0", "–")
    assert interval(-0.01, 0.025) == "−0.0100 … +0.0250"
    assert (p_value(0.0342), p_value(0.0001), p_value(1.0), p_value(None)) == ("0.034", "< 0.001", "1.000", "–")
