"""Numbers that a country gives: checked where they say what they are, and nobody has to have one."""

from __future__ import annotations

import pytest
from conftest import assert_outcome, patient
from hypothesis import given
from hypothesis import strategies as st

from fhirserver import countries

P1 = "urn:oid:2.16.840.1.113883.3.4424"
PESEL, DOCTOR, PROVIDER = f"{P1}.1.1.616", f"{P1}.1.6.2", f"{P1}.2.3.1"


def pesel(ten: str) -> str:
    total = sum(int(digit) * (1, 3, 7, 9)[place % 4] for place, digit in enumerate(ten))
    return ten + str(-total % 10)


# The first one is the ministry's own example; the others are of the five centuries that the month tells apart.
@pytest.mark.parametrize(
    "value", ["44051401359", *(pesel(t) for t in ("0222150000", "9981011234", "0045230001", "1069110001"))]
)
def test_pesel_is_taken(hospital, value):
    made = hospital.post("Patient", json=patient(identifier=[{"system": PESEL, "value": value}]))
    assert made.status_code == 201, made.text
    assert hospital.get(f"Patient?identifier={PESEL}|{value}").json()["total"] == 1


@pytest.mark.parametrize(
    "value",
    [
        "44051401358",
        "4405140135",
        "440514013590",
        " 44051401359",
        "44-051401359",
        "4405140135a",
        pesel("4413140135"),
        "٤٤٠٥١٤٠١٣٥٩",
    ],
)
def test_what_is_no_pesel_is_refused_and_not_repeated(hospital, value):
    said = hospital.post("Patient", json=patient(identifier=[{"value": "1"}, {"system": PESEL, "value": value}]))
    assert_outcome(said, 422, "value", "Patient.identifier[1].value")
    assert value.strip() not in said.text


@given(
    st.from_regex(r"[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|1[0-9]|2[0-8])[0-9]{4}", fullmatch=True),
    st.integers(0, 10),
    st.integers(1, 9),
)
def test_one_mistyped_digit_is_found(ten, place, change):
    right = pesel(ten)
    assert countries.wrong({"system": PESEL, "value": right}) is None
    mistyped = right[:place] + str((int(right[place]) + change) % 10) + right[place + 1 :]
    assert countries.wrong({"system": PESEL, "value": mistyped}) is not None


@pytest.mark.parametrize(
    ("system", "right", "wrong"),
    [(DOCTOR, "5425740", "5425741"), (DOCTOR, "5425740", "0425740"), (PROVIDER, "000000010642", "10642")],
)
def test_numbers_of_doctors_and_providers(as_, system, right, wrong):
    director = as_("centre")
    type_, members = ("Practitioner", {}) if system == DOCTOR else ("Organization", {"name": "x"})
    body = {"resourceType": type_, **members}
    assert director.post(type_, json=body | {"identifier": [{"system": system, "value": right}]}).status_code == 201
    assert_outcome(
        director.post(type_, json=body | {"identifier": [{"system": system, "value": wrong}]}),
        422,
        "value",
        f"{type_}.identifier[0].value",
    )


@pytest.mark.parametrize(
    "identifier",
    [
        {"system": "urn:fhirserver:patient:hospital", "value": "newborn-1"},
        {"system": "urn:oid:2.16.840.1.113883.3.4424.1.1.276", "value": "C01X00T47"},  # a German's
        {"system": PESEL, "value": "44051401358", "use": "old"},
        {"system": PESEL, "value": "0", "use": "temp"},
        {
            "system": PESEL,
            "_value": {
                "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]
            },
        },
    ],
)
def test_newborns_foreigners_and_numbers_that_proved_wrong(hospital, identifier):
    assert hospital.post("Patient", json=patient(identifier=[identifier])).status_code == 201


def test_a_person_without_any_number(hospital):
    assert (
        hospital.post(
            "Patient", json={"resourceType": "Patient", "name": [{"text": "Unknown, brought in at night"}]}
        ).status_code
        == 201
    )


def test_a_merge_is_taken_back_by_taking_the_link_away(hospital, created):
    from conftest import order

    stays = created(patient())
    old = created(patient(identifier=[{"system": PESEL, "value": "44051401359"}]))
    asked = created(order(f"Patient/{stays['id']}"))
    path = f"ServiceRequest?subject:Patient.identifier={PESEL}|44051401359&_id={asked['id']}"
    assert hospital.get(path).json()["total"] == 0
    merged = old | {"active": False, "link": [{"other": {"reference": f"Patient/{stays['id']}"}, "type": "replaced-by"}]}
    assert hospital.put(f"Patient/{old['id']}", json=merged).status_code == 200
    assert hospital.get(path).json()["total"] == 1
    assert hospital.put(f"Patient/{old['id']}", json=old).status_code == 200
    assert hospital.get(path).json()["total"] == 0


@pytest.mark.parametrize(
    "wrong",
    [{"system": []}, {"system": {}}, {"system": PESEL, "value": "1", "use": []}, {"system": PESEL, "value": "1", "use": {}}],
)
def test_an_identifier_that_is_none_is_422(hospital, wrong):
    assert_outcome(hospital.post("Patient", json=patient(identifier=[wrong])), 422, "value")
