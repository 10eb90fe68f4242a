"""The record of a platform: written whole, private, and an unreadable one is said so."""

import dataclasses
import json
import stat

import pytest

from cluster.platform import PlatformInfo, Ports, read_record, record_path, remove_record, write_record
from tenants.errors import IntegrityError


@pytest.fixture
def info(tmp_path):
    ports = Ports(**{part.name: 20_000 + number for number, part in enumerate(dataclasses.fields(Ports))})
    return PlatformInfo(
        "ab12", str(tmp_path), "/tmp/x", ports, "http://127.0.0.1:1", "2026-01-01T00:00:00+00:00", "0.1.0"
    )


def test_what_is_written_is_read_back(info):
    write_record(info)
    assert read_record(info.data_dir) == info
    assert stat.S_IMODE(record_path(info.data_dir).stat().st_mode) == 0o600


def test_the_contract_s_fields_stand_at_the_top(info):
    write_record(info)
    document = json.loads(record_path(info.data_dir).read_text())
    assert {"url", "console", "dashboard", "mlflow", "data_dir"} <= set(document)


def test_no_record_is_no_platform(info):
    assert read_record(info.data_dir) is None
    remove_record(info.data_dir)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"platform": {"ports": {}}}'])
def test_a_broken_record_is_an_error_with_the_mend(info, text):
    write_record(info)
    record_path(info.data_dir).write_text(text)
    with pytest.raises(IntegrityError, match="delete it and start again"):
        read_record(info.data_dir)
