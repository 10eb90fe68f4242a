"""The command line without a platform: help, wrong use, errors as sentences and as JSON, the local store."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli.__main__ import build_app, run
from tests.conftest import ROOT, CommandLine

VERBS = [
    ["up"], ["down"], ["status"], ["doctor"],
    ["tenant", "create"], ["tenant", "list"], ["tenant", "show"], ["tenant", "update"], ["tenant", "suspend"],
    ["tenant", "resume"], ["tenant", "delete"],
    ["key", "create"], ["key", "list"], ["key", "revoke"],
    ["share", "grant"], ["share", "list"], ["share", "revoke"],
    ["index"], ["jobs"], ["job"], ["versions"], ["rollback"], ["erase"],
    ["search"], ["ask"], ["answers"], ["eval"], ["calibrate"], ["audit"], ["bench", "search"],
    ["train", "reranker"],
    ["ab", "create"], ["ab", "list"], ["ab", "show"], ["ab", "ramp"], ["ab", "compare"], ["ab", "stop"],
    ["ab", "promote"], ["ab", "rollback"], ["ab", "delete"], ["ab", "improve"],
]  # fmt: skip


@pytest.fixture
def cli(tmp_path):
    return CommandLine(tmp_path / "data")


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """`fathom` in this process, on a data dir of its own: (exit code, stdout, stderr)."""
    monkeypatch.setenv("FATHOM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("FATHOM_URL", raising=False)

    def call(*arguments):
        code = run(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_an_example_and_json(verb, here):
    code, out, _ = here(*verb, "--help")
    plain = re.sub(r"\s+", " ", re.sub(r"[│╭╮╰╯─]", " ", out))
    assert code == 0
    assert f"Example: fathom {' '.join(verb)}" in plain
    assert "--json" in plain
    assert "--data-dir" in plain


def test_every_registered_verb_is_listed_above():
    app = build_app()
    single = {[command.name or command.callback.__name__][0] for command in app.registered_commands}
    grouped = {
        f"{group.name} {command.name or command.callback.__name__}"
        for group in app.registered_groups
        for command in group.typer_instance.registered_commands
    }
    known = {" ".join(verb) for verb in VERBS}
    assert {name for name in single | grouped if name not in known} == set()


WRONG = [
    ["tenant", "create"],
    ["search", "acme"],
    ["nonsense"],
    ["search", "a", "b", "--top-k", "0"],
    ["search", "a", "b", "--rerank", "x"],
]


OF_THE_CONTRACT = [
    ["up", "--config", "--port", "--data-dir", "--generator"],
    ["tenant", "create", "--config"],
    ["tenant", "update", "--config"],
    ["tenant", "delete", "--yes"],
    ["key", "create", "--scope", "--expires"],
    ["index", "--collection", "--sync", "--yes", "--dry-run", "--address", "--resume"],
    ["job", "--follow", "--cancel"],
    ["rollback", "--to"],
    ["search", "--top-k", "--rerank", "--explain"],
    ["ask", "--stream", "--explain"],
    ["eval", "--queries", "--qrels", "--rerank", "--depth", "--k", "--limit", "--answers"],
    ["audit", "--verify-chain"],
]


@pytest.mark.parametrize("line", OF_THE_CONTRACT, ids=" ".join)
def test_the_options_of_the_contract_exist(line, here):
    verb = [word for word in line if not word.startswith("--")]
    shown = here(*verb, "--help")[1]
    assert [option for option in line if option.startswith("--") and not re.search(rf"{option}\b", shown)] == []


def test_erase_takes_documents_and_asks_nothing(here, monkeypatch):
    from cluster.cli import published

    monkeypatch.setattr(
        published, "erase_documents", lambda settings, tenant, ids: {"erased": len(ids), "index_version": 7}
    )
    code, out, _ = here("erase", "acme", "letters/1.pdf", "letters/2.pdf", "--json")
    assert (code, json.loads(out)) == (0, {"erased": 2, "index_version": 7})


@pytest.mark.parametrize("wrong", WRONG, ids=" ".join)
def test_wrong_use_is_two_and_one_sentence(wrong, here):
    code, out, err = here(*wrong)
    assert (code, out) == (2, "")
    assert err.startswith("fathom: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_an_error_with_json_is_one_document_on_stdout(here):
    code, out, _ = here("search", "acme", "x", "--json")
    assert code == 1
    error = json.loads(out)["error"]
    assert error["code"] == "unavailable"
    assert "fathom up" in error["detail"]


def test_tenants_and_keys_without_a_platform(here):
    code, out, _ = here("tenant", "create", "acme", "--json")
    made = json.loads(out)
    assert code == 0
    assert {"tenant", "api_key"} <= set(made)
    assert here("tenant", "create", "acme")[0] == 1
    assert (
        json.loads(here("key", "create", "acme", "--scope", "index", "--expires", "90d", "--json")[1])["scope"]
        == "index"
    )
    keys = json.loads(here("key", "list", "acme", "--json")[1])["keys"]
    assert len(keys) == 2
    assert all("api_key" not in key for key in keys)
    assert here("key", "revoke", "acme", keys[0]["key_id"])[0] == 0
    assert json.loads(here("tenant", "suspend", "acme", "--json")[1])["state"] == "suspended"
    assert json.loads(here("tenant", "resume", "acme", "--json")[1])["state"] == "active"
    assert here("tenant", "delete", "acme")[0] == 1
    assert here("tenant", "delete", "acme", "--yes")[0] == 0
    assert here("tenant", "show", "acme")[0] == 1


def test_shared_collections_without_a_platform(here):
    for name in ("library", "acme"):
        here("tenant", "create", name)
    made = json.loads(here("share", "grant", "library", "manuals", "acme", "--json")[1])
    assert (made["name"], made["subscriber"]) == ("library/manuals", "acme")
    assert "shared_collections: [library/manuals]" in here("share", "grant", "library", "manuals", "acme")[1]
    assert json.loads(here("share", "list", "library", "--json")[1]) == {"given": [made], "received": []}
    assert json.loads(here("share", "list", "acme", "--json")[1]) == {"given": [], "received": [made]}
    assert here("share", "grant", "library", "manuals", "library")[0] == 2
    assert here("share", "grant", "library", "manuals", "nobody")[0] == 1
    revoked = json.loads(here("share", "revoke", "library", "manuals", "acme", "--json")[1])
    assert revoked == {"name": "library/manuals", "subscriber": "acme", "revoked": True}
    assert here("share", "revoke", "library", "manuals", "acme")[0] == 1


def test_an_unknown_key_of_a_configuration_names_the_nearest(here, tmp_path):
    file = tmp_path / "acme.yaml"
    file.write_text("rerank: {max_dept: 3}\n")
    code, _, err = here("tenant", "create", "acme", "--config", str(file))
    assert code == 2
    assert "did you mean rerank.max_depth" in err


def test_doctor_says_where_a_value_comes_from_and_hides_secrets(here, monkeypatch):
    monkeypatch.setenv("FATHOM_ADMIN_KEY", "do-not-print")
    code, out, _ = here("doctor", "--json")
    report = json.loads(out)
    assert code in (0, 1)
    assert "do-not-print" not in out
    rows = {row["name"]: row for row in report["settings"]}
    assert rows["admin_key"]["source"] == "environment"
    assert rows["port"]["source"] == "default"
    assert all(check["detail"] for check in report["checks"])


def test_status_without_a_platform_is_not_ready(here):
    code, out, _ = here("status", "--json")
    assert code == 1
    assert json.loads(out)["ready"] is False


def test_help_does_not_load_what_it_does_not_need():
    """Start-up time in kind, not in seconds: none of the heavy packages is imported for --help."""
    probe = (
        "import sys; from cluster.cli.__main__ import run; run(['--help']);"
        "print([name for name in ('ray', 'mlflow', 'lancedb', 'openvino', 'fastapi', 'sqlalchemy', 'httpx', 'pydantic')"
        " if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.strip() == "[]"


def test_a_defect_is_a_sentence_and_a_trace_in_a_file(here, monkeypatch):
    from cluster import status

    def broken(_settings):
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(status, "platform_status", broken)
    code, _, err = here("status")
    assert code == 1
    path = re.search(r"the trace is in (\S+?):", err).group(1)
    assert "ZeroDivisionError: boom" in Path(path).read_text()


def test_json_is_alone_on_stdout_whoever_else_prints_there(tmp_path):
    program = f"""
import os, subprocess, sys
from cluster.cli import __main__, tenant_verbs

read = tenant_verbs.read_settings

def noisy(data_dir):
    print("python")
    os.write(1, b"native\\n")
    subprocess.run(["echo", "child"])
    return read(data_dir)

tenant_verbs.read_settings = noisy
sys.argv = ["fathom", "tenant", "create", "acme", "--data-dir", {str(tmp_path)!r}, "--json"]
__main__.main()
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout)["tenant"] == "acme"
    assert {"python", "native", "child"} <= set(ran.stderr.split())


def test_a_calibration_says_what_it_lacks(cli, tmp_path):
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"_id": "1", "text": "x"}\n')
    cli.ok("tenant", "create", "acme")
    missing = cli("calibrate", "acme", "--queries", str(tmp_path / "none.jsonl"))
    assert (missing.code, "no file" in missing.err) == (2, True)
    alone = cli("calibrate", "acme", "--queries", str(queries))
    assert (alone.code, "belong together" in alone.err) == (2, True)
    empty = cli("calibrate", "acme", "--json")
    assert empty.code == 2
    assert "index documents first" in empty.json["error"]["detail"]
