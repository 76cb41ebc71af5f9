"""The starter templates: valid Questionnaires, in two languages, that a complete report fulfils."""

from __future__ import annotations

import pytest

from fhirserver.primitives import is_xhtml
from fhirserver.templates import NAMES, templates
from fhirserver.validation import problems
from fhirserver.workflow import contract
from fhirserver.workflow.answers import Scope, enabled, walk

TEMPLATES = dict(zip(NAMES, templates(), strict=True))
SECTIONS = {
    "clinical-information": "11329-0",
    "technique": "55111-9",
    "comparison": "18834-2",
    "findings": "59776-5",
    "impression": "19005-8",
    "recommendation": "18783-1",
}
TRANSLATION = "http://hl7.org/fhir/StructureDefinition/translation"
every_template = pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)


def coding(system, code):
    return {"system": f"urn:fhirserver:CodeSystem:{system}", "code": code}


PRESENT, ABSENT = coding("presence", "present"), coding("presence", "absent")


def complete(questions, chosen, before=()):
    """Each enabled question answered: as ``chosen`` says, or else by its first option."""
    said = []
    for question in questions:
        if not enabled(question, (Scope([*before, *said]),)):
            continue
        link = question["linkId"]
        if question["type"] == "group":
            said.append(
                {"linkId": link, "text": question["text"], "item": complete(question["item"], chosen, [*before, *said])}
            )
            continue
        options = question.get("answerOption", [{}])
        value = {
            "text": {"valueString": f"Told of {link}."},
            "string": {"valueString": link},
            "quantity": {"valueQuantity": {"value": 6, "unit": "mm", "system": "http://unitsofmeasure.org", "code": "mm"}},
            "choice": next((o for o in options if (o.get("valueCoding") or {}).get("code") == chosen.get(link)), options[0]),
        }[question["type"]]
        said.append({"linkId": link, "text": question["text"], "answer": [value]})
    return said


def report(template, **chosen):
    chosen = {link.replace("_", "-"): code for link, code in chosen.items()}
    return {"resourceType": "QuestionnaireResponse", "status": "completed", "item": complete(template["item"], chosen)}


@every_template
def test_it_is_a_valid_questionnaire(template):
    assert list(problems(template, "Questionnaire")) == []
    name = template["url"].removeprefix("urn:fhirserver:Questionnaire:")
    assert TEMPLATES[name] is template
    assert (template["version"], template["status"], template["subjectType"]) == ("1", "active", ["Patient"])


@every_template
def test_its_names_are_unique_and_its_conditions_name_questions_before(template):
    """que-2: "The link ids for groups and questions must be unique within the questionnaire"."""
    seen = []
    for question in walk(template["item"]):
        for condition in question.get("enableWhen", ()):
            assert condition["question"] in seen
        # que-12: enableBehavior where there is more than one enableWhen
        assert len(question.get("enableWhen", ())) < 2 or question["enableBehavior"] in ("any", "all")
        seen.append(question["linkId"])
    assert len(seen) == len(set(seen))


@every_template
def test_its_conditions_name_options_of_the_question(template):
    questions = {question["linkId"]: question for question in walk(template["item"])}
    for question in questions.values():
        for condition in question.get("enableWhen", ()):
            options = [option["valueCoding"] for option in questions[condition["question"]]["answerOption"]]
            assert condition["answerCoding"] in [{"system": o["system"], "code": o["code"]} for o in options]


@every_template
def test_its_sections_have_their_codes_and_the_impression_is_required(template):
    sections = {question["linkId"]: question for question in template["item"]}
    assert {link: sections[link]["code"][0]["code"] for link in SECTIONS} == SECTIONS
    assert (sections["impression"]["type"], sections["impression"]["required"]) == ("text", True)
    assert sections["findings"]["type"] == "group"


@every_template
def test_each_text_has_its_polish_translation(template):
    options = [option["valueCoding"] for question in walk(template["item"]) for option in question.get("answerOption", ())]
    texts = [(template, "title"), *((q, "text") for q in walk(template["item"])), *((o, "display") for o in options)]
    for row, name in texts:
        extension = row[f"_{name}"]["extension"][0]
        assert extension["url"] == TRANSLATION
        parts = {part["url"]: part.get("valueCode") or part.get("valueString") for part in extension["extension"]}
        assert parts["lang"] == "pl"
        assert parts["content"].strip()
        assert row[name].strip()


@every_template
def test_each_heading_stands_alone(template):
    """A section of the signed document, or a line of a correction, is read without its group."""
    headings = [question["text"] for question in walk(template["item"])]
    assert len(headings) == len(set(headings))


@every_template
def test_a_complete_report_fulfils_it(template):
    chosen = [{}, {q["linkId"]: "present" for q in walk(template["item"])}]
    for said in ({"item": complete(template["item"], one)} for one in chosen):
        response = {"resourceType": "QuestionnaireResponse", "status": "completed"} | said
        assert list(problems(response, "QuestionnaireResponse")) == []
        assert contract.failures(template, response, "en", priors=True) == []
        assert is_xhtml(contract.narrative(response))


@every_template
def test_an_empty_report_names_each_section_that_is_missing(template):
    missing = {issue.expression for issue in contract.failures(template, {"item": []}, None, priors=True)}
    for link in ("findings", "impression", "comparison"):
        assert f"QuestionnaireResponse.item.where(linkId='{link}')" in missing


@pytest.mark.parametrize(
    ("name", "chosen", "asked"),
    [
        ("head-ct", {"midline_shift": "present"}, "midline-shift-size"),
        ("head-ct", {"haemorrhage": "present"}, "haemorrhage-type"),
        ("head-ct", {"haemorrhage": "indeterminate"}, "haemorrhage-description"),
        ("chest-xray", {"pneumothorax": "present"}, "pneumothorax-side"),
        ("chest-xray", {"pleural_effusion": "present"}, "pleural-effusion-side"),
        ("abdomen-ct", {"aorta": "present"}, "aorta-diameter"),
        ("knee-mr", {"medial_meniscus": "torn"}, "medial-meniscus-tear"),
        ("mammography", {"left_lesion": "mass"}, "left-size"),
        *(("mammography", {"assessment": category}, "management") for category in ("0", "3", "4A", "4B", "4C", "5")),
    ],
)
def test_what_was_found_is_asked_further(name, chosen, asked):
    template = TEMPLATES[name]
    response = report(template, **chosen)
    for level in (response["item"], *(row["item"] for row in walk(response["item"]) if "item" in row)):
        level[:] = [row for row in level if row["linkId"] != asked]
    wrong = contract.failures(template, response, None)
    assert [issue.expression.rpartition(".")[2] for issue in wrong] == [f"where(linkId='{asked}')"]


@pytest.mark.parametrize("category", ["1", "2", "6"])
def test_a_mammogram_without_suspicion_needs_no_management(category):
    template = TEMPLATES["mammography"]
    response = report(template, assessment=category)
    assert "management" not in [row["linkId"] for row in response["item"]]
    assert contract.failures(template, response, None) == []


def test_a_caller_may_change_what_it_got():
    templates()[0]["title"] = "Mine"
    assert templates()[0]["title"] == "Chest radiograph"
