"""The docs say what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fhirserver import conformance
from fhirserver.__main__ import _parser
from fhirserver.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_setting_is_in_the_readmes_table_with_its_default():
    rows = {
        name: (default, what)
        for name, default, what in re.findall(r"^\| `FHIRSERVER_(\w+)` \| (?:`(.*?)`)? ?\| (.*) \|$", README, re.M)
    }
    fields = Settings.model_fields
    assert set(rows) == {name.upper() for name in fields}
    for name, field in fields.items():
        default, what = rows[name.upper()]
        assert what == field.description, name
        shown = "" if field.default is None else str(field.default)
        assert default == (shown.removesuffix(".0") if name == "study_quiet_seconds" else shown), name


def test_every_command_is_in_the_readme():
    parser = _parser()
    [commands] = [a for a in parser._actions if hasattr(a, "choices") and a.choices]
    for name in commands.choices:
        assert f"`fhirserver {name}" in README, name


def test_the_conformance_document_is_what_runs():
    """``make conformance`` writes it."""
    assert (ROOT / "docs" / "conformance.md").read_text() == conformance.text()


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/conformance.md"])
def test_links_and_named_files_exist(path):
    text = (ROOT / path).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / path).parent / target).exists(), target
    for name in re.findall(r"`((?:fhirserver|imaging|auth|tests|bench|examples)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
