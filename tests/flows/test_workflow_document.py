"""docs/workflow.md: the states that it draws are the tables, and the order that it walks through is walked through."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest
from conftest import patient
from operations_conftest import Network, network  # noqa: F401

from fhirserver import templates
from fhirserver.workflow import agreement, policy, states

TEXT = (Path(__file__).parents[2] / "docs" / "workflow.md").read_text()
STEP = re.compile(r"^As (\w+):\n\n```http\n(.*?)```\n```json\n(.*?)```", re.M | re.S)


@pytest.mark.parametrize(("number", "kind"), [(0, "Task"), (1, "DiagnosticReport"), (2, "ServiceRequest")])
def test_the_states_are_drawn_as_the_tables_have_them(number, kind):
    drawn = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", TEXT, re.S)[number]
    table = {(old, new) for old, following in states.TABLES[kind].items() if old for new in following}
    edges = set(re.findall(r"^  ([\w-]+) --> ([\w-]+)$", drawn, re.M))
    assert edges == {(old, new) for old, new in table if new != "entered-in-error"}


def test_the_example_of_an_agreement_and_of_a_policy_is_understood():
    [terms, weights] = re.findall(r"```json\n(\{\"(?:terms|url)\".*?)```", TEXT, re.S)
    assert agreement.parsed(terms.encode()).urgency(frozenset({"cito"})) == "stat"
    assert policy.parsed(weights.encode()).canonical == "https://centre.example/policy|3"


def matches(shown, answered, names) -> None:
    """What is shown is in the answer; a name that is not known yet is taken from it."""
    if isinstance(shown, dict):
        for name, value in shown.items():
            assert name in answered, name
            matches(value, answered[name], names)
    elif isinstance(shown, list):
        assert len(answered) >= len(shown)
        for one, other in zip(shown, answered, strict=False):
            matches(one, other, names)
    elif isinstance(shown, str) and (name := re.fullmatch(r"\{(\w+)\}", shown)):
        assert names.setdefault(name[1], answered) == answered
    else:
        assert shown == answered


def answers(items: list[dict]) -> list[dict]:
    """An answer to each required question of the template."""
    rows = []
    for item in items:
        row: dict = {"linkId": item["linkId"]}
        if item["type"] == "group":
            row["item"] = answers(item.get("item", []))
            rows += [row] if row["item"] else []
        elif item.get("required") and "enableWhen" not in item:
            option = next(iter(item.get("answerOption", ())), {"valueString": "Acute subdural haematoma."})
            rows.append(row | {"answer": [{k: v for k, v in option.items() if k.startswith("value")}]})
    return rows


def test_the_order_goes_through_as_the_document_says(network: Network):  # noqa: F811
    number = uuid.uuid4().hex[:10]
    person = network.hospital.post("Patient", json=patient(identifier=[{"system": "urn:mrn", "value": f"P{number}"}])).json()
    names = {"patient": person["id"], "accession": f"A{number}"}
    clients = {"hospital": network.hospital, "dispatcher": network.centre, "anna": network.reader("anna")}
    [template] = [t for t in templates.templates() if t["url"].endswith("head-ct")]
    steps = STEP.findall(TEXT)
    assert len(steps) == 14
    for place, (who, asked, shown) in enumerate(steps):
        head, _, body = asked.partition("\n\n")
        method, path = head.strip().split(" ")
        filled = re.sub(r"\{(\w+)\}", lambda m: names[m[1]], f"{path}\n{body}").replace(
            "ANSWERS", json.dumps(answers(template["item"]))
        )
        path, _, body = filled.partition("\n")
        reply = clients[who].request(
            method, path.removeprefix("/fhir/"), content=body, headers={"Content-Type": "application/fhir+json"}
        )
        matches(json.loads(shown), reply.json(), names)
        if place == 1:
            network.images({"identifier": [{"value": f"A{number}"}]})
