"""The command line of people, systems and apps, beside a running database."""

from __future__ import annotations

import io
import json

import pyotp
import pytest
from joserfc.jwk import ECKey
from people import PASSWORD
from requirements import ROOT, levels, marked, not_claimed, table

from fhirserver.__main__ import main


@pytest.fixture
def run(server, monkeypatch, capsys, mongodb_uri, tmp_path):
    monkeypatch.setenv("FHIRSERVER_MONGODB_URI", mongodb_uri)
    monkeypatch.setenv("FHIRSERVER_DATABASE", server.name)

    def command(*words: str, given: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        status = main([*words, "--data", str(tmp_path)])
        told = capsys.readouterr()
        return status, told.out, told.err

    return command


def test_a_person_is_added_given_a_password_and_a_second_factor_and_disabled(run, server):
    assert run("user", "add", "zoe", "--role", "reader", "--organization", "hospital", "--display", "Dr Zoe")[0] == 0
    assert run("user", "password", "zoe", given=f"{PASSWORD}\n")[0] == 0
    assert server.auth.people.password_matches("zoe", PASSWORD)
    status, out, _ = run("user", "totp", "zoe")
    assert (status, out.startswith("otpauth://totp/")) == (0, True)
    assert pyotp.parse_uri(out.strip()).secret == server.auth.people.get("zoe")["totp"]
    again = run("user", "add", "zoe", "--role", "trainee", "--organization", "hospital")
    assert "was there: replaced; password kept" in again[1]
    assert server.auth.people.password_matches("zoe", PASSWORD)
    assert run("user", "disable", "zoe")[0] == 0
    assert not server.auth.people.password_matches("zoe", PASSWORD)
    assert run("user", "enable", "zoe")[0] == 0
    assert server.auth.people.password_matches("zoe", PASSWORD)


@pytest.mark.requirement("129 217")
@pytest.mark.parametrize(
    ("words", "given", "told"),
    [
        (("user", "password", "nobody"), PASSWORD, "no user nobody"),
        (("user", "disable", "nobody"), "", "no user nobody"),
        (("user", "totp", "nobody"), "", "no user nobody"),
        (("user", "add", "x", "--role", "reader", "--external", "nowhere=1"), "", "--external is PROVIDER=SUBJECT"),
        (("client", "remove", "nobody"), "", "no client nobody"),
        (("client", "add", "x", "--public", "--scope", "patient/*.rs"), "", "--redirect-uri"),
        (("client", "add", "x", "--secret", "s", "--scope", "system/Nothing.rs"), "", "not a scope"),
        (("client", "add", "x", "--secret", "s", "--scope", "system/Patient.dus"), "", "not a scope"),
        (("client", "add", "x", "--secret", "s", "--scope", "system/Observation.rs?value-quantity=gt5"), "", "not a scope"),
        (
            ("client", "add", "x", "--public", "--scope", "patient/*.rs", "--redirect-uri", "http://app.example/x"),
            "",
            "not a URL",
        ),
        (
            ("client", "add", "x", "--public", "--scope", "patient/*.rs", "--redirect-uri", "https://a.example/x#y"),
            "",
            "not a URL",
        ),
        (("client", "add", "x", "--jwks", "/nowhere/keys.json", "--scope", "system/*.rs"), "", "/nowhere/keys.json"),
        (("token", "--client", "nobody", "--scope", "system/*.rs"), "", "no client nobody"),
    ],
)
def test_what_is_wrong_is_told(run, words, given, told):
    status, _, err = run(*words, given=given)
    assert status == 1
    assert told in err


def test_a_password_that_is_too_short_is_refused(run):
    run("user", "add", "kim", "--role", "clerk")
    status, _, err = run("user", "password", "kim", given="short\n")
    assert (status, "at least 10 characters" in err) == (1, True)


@pytest.mark.requirement("24 305 306 316")
def test_a_system_is_registered_with_its_keys_and_removed(run, server, tmp_path):
    path = tmp_path / "keys.json"
    key = ECKey.generate_key("P-384", {"kid": "one"})
    path.write_text(json.dumps({"keys": [key.as_dict(private=True)]}))
    status, out, _ = run("client", "add", "hospital-ehr", "--jwks", str(path), "--scope", "system/*.rs")
    assert status == 0
    assert "client hospital-ehr:" in out
    assert "register it again" in out
    kept = server.auth.clients.get("hospital-ehr")["jwks"]["keys"][0]
    assert (kept["kid"], "d" in kept) == ("one", False)
    path.write_text("{}")
    assert run("client", "add", "broken", "--jwks", str(path), "--scope", "system/*.rs")[0] == 1
    assert run("client", "remove", "hospital-ehr")[0] == 0
    assert server.auth.clients.get("hospital-ehr") is None


def test_a_secret_can_be_made_and_is_printed_once(run, server):
    secret = run("client", "add", "made", "--secret", "-", "--scope", "system/*.rs")[1].splitlines()[-1]
    client = server.auth.clients.get("made")
    assert server.auth.clients.secret_matches(client, secret)
    assert secret not in str(client)


def test_a_token_for_a_patient_scope_is_for_one_patient(run, server):
    run("client", "add", "viewer", "--public", "--scope", "patient/*.rs", "--redirect-uri", "https://app.example/")
    assert "give --patient" in run("token", "--client", "viewer", "--scope", "patient/*.rs")[2]
    token = run("token", "--client", "viewer", "--scope", "patient/*.rs", "--patient", "p1")[1].strip()
    assert server.auth.principal(token).patient == "p1"


def test_keys_rotate_and_the_last_ones_stay_published(run, server):
    server.installation.server.signing_keys()
    before = [row["_id"] for row in server.auth.signing_keys()]
    for _ in range(3):
        assert run("keys", "rotate")[0] == 0
    after = [row["_id"] for row in server.auth.signing_keys()]
    assert len(after) == 3
    assert after[0] not in before


def test_the_table_of_smarts_requirements_is_true():
    assert (ROOT / "docs/smart-requirements.md").read_text() == table(), "make conformance"
    assert not set(marked()) & set(not_claimed())
    assert set(marked()) | set(not_claimed()) <= set(levels())
