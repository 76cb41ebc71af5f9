"""auth/scopes.py by itself: the grammar, and that what is narrowed or compared never comes to more.

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html#scopes-for-requesting-fhir-resources
"""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.scopes import LEVELS, Scope, launch, narrowed, parse, parse_all, permits, special, subset

LETTERS = ["".join(some) for number in range(1, 6) for some in combinations("cruds", number)]
V1 = {"read": "rs", "write": "cud", "*": "cruds"}
TYPES = ("Patient", "Observation", "Task", "*")
QUERIES = (
    "",
    "?category=laboratory",
    "?status=final",
    "?category=laboratory&status=final",
    "?status=final&category=laboratory",
)
IDENTITIES = ("openid", "fhirUser", "profile", "launch", "launch/patient", "offline_access", "online_access", "__introspect")

# ---------------------------------------------------------------------------------------------------- grammar


@pytest.mark.parametrize("level", sorted(LEVELS))
@pytest.mark.parametrize("letters", LETTERS)
def test_letters_in_their_order_are_a_scope(level, letters):
    assert parse(f"{level}/Observation.{letters}") == Scope(level, "Observation", letters)
    assert parse(f"{level}/*.{letters}") == Scope(level, "*", letters)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_letters_out_of_their_order_are_none(size):
    for some in permutations("cruds", size):
        assert (parse(f"user/Patient.{''.join(some)}") is not None) == ("".join(some) in LETTERS)


@pytest.mark.parametrize(("old", "new"), V1.items())
def test_version_1_is_read_as_its_version_2_meaning(old, new):
    """ "read" is rs, "write" cud, "*" cruds. https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html"""
    for level in LEVELS:
        for type_ in TYPES:
            assert parse(f"{level}/{type_}.{old}") == parse(f"{level}/{type_}.{new}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user",
        "user/",
        "user/Patient",
        "user/Patient.",
        "user/Patient.x",
        "user/Patient.rr",
        "user/Patient.R",
        "User/Patient.r",
        "user/patient.r",
        "user/.r",
        "user/**.r",
        "user/Pat*.r",
        "admin/Patient.r",
        "user/Patient.r ",
        " user/Patient.r",
        "user/Patient.r\n",
        "user/Patient.reads",
        "user/Patient.read,write",
        "user/Patient.r?",
        "user/Patient.r?category",
        "user/Patient.r?=x",
        "user/Patient.r?category=",
        "user/*.r?category=x",
        "user/Patient.read?category=x",
        "user/Patient.*?category=x",
        "user/Patient.r?a=%ff",
        "user/Observation.r?" + "&".join(f"a{n}=1" for n in range(11)),
        "user/" + "P" * 600 + ".r",
        "ｕser/Patient.r",
    ],
)
def test_what_is_no_resource_scope(text):
    assert parse(text) is None
    assert parse_all(text) == () or text.strip() == "user/Patient.r"  # a list is split at white space


def test_a_query_part_is_pairs_that_all_hold():
    found = parse("patient/Observation.rs?category=http://terminology.hl7.org/x%7Claboratory&status=final")
    assert found is not None
    assert found.query == (("category", "http://terminology.hl7.org/x|laboratory"), ("status", "final"))


@pytest.mark.parametrize("text", IDENTITIES)
def test_what_is_about_no_resource_is_special(text):
    assert special(text)
    assert parse(text) is None


@pytest.mark.parametrize(
    "text", ["launch/", "launch/Patient", "launch/patient?role=", "launch/patient?x=y", "launch/patient/1", "Launch"]
)
def test_what_is_no_launch(text):
    assert launch(text) is None
    assert not special(text)


@given(st.text(max_size=60))
def test_no_text_breaks_it(text):
    scope = parse(text)
    assert scope is None or (scope.level in LEVELS and scope.letters in LETTERS)
    assert parse_all(text) == tuple(found for part in text.split() if (found := parse(part)))


# ---------------------------------------------------------------------------------------------------- properties

scopes = st.builds(
    lambda level, type_, letters, query: f"{level}/{type_}.{letters}" + ("" if type_ == "*" or letters in V1 else query),
    st.sampled_from(sorted(LEVELS)),
    st.sampled_from(TYPES),
    st.sampled_from([*LETTERS, *V1]),
    st.sampled_from(QUERIES),
)
lists = st.lists(st.one_of(scopes, st.sampled_from([*IDENTITIES, "nonsense", "user/Patient.sr"])), max_size=6).map(" ".join)


def given_by(text: str) -> set[tuple[str, str, str, frozenset[tuple[str, str]]]]:
    """Each right: level, type, letter, and what a resource has to meet."""
    return {
        (scope.level, type_, letter, frozenset(scope.query))
        for scope in parse_all(text)
        for type_ in (TYPES if scope.type == "*" else (scope.type,))
        for letter in scope.letters
    }


def within(asked: str, held: str) -> bool:
    """Each right is held, by a scope that asks for no more of a resource."""
    rights = given_by(held)
    return all(
        any((level, type_, letter) == right[:3] and right[3] <= query for right in rights)
        for level, type_, letter, query in given_by(asked)
    )


@given(lists, lists)
def test_a_subset_permits_nothing_more(asked, held):
    if subset(asked, held):
        assert within(asked, held)
        for type_ in TYPES[:3]:
            for letter in "cruds":
                assert not permits(parse_all(asked), type_, letter) or permits(parse_all(held), type_, letter)


@given(lists)
def test_a_list_is_a_subset_of_itself_and_nothing_of_all(text):
    assert subset(text, text)
    assert subset("", text)


@given(lists, lists, lists)
def test_to_be_a_subset_goes_on(one, two, three):
    if subset(one, two) and subset(two, three):
        assert subset(one, three)


@given(lists, lists, st.sets(st.sampled_from(sorted(LEVELS))), st.booleans())
def test_what_is_narrowed_is_within_the_ceiling_and_spelled_as_asked(requested, allowed, levels, specials):
    kept = narrowed(requested, allowed, frozenset(levels), specials)
    parts = kept.split()
    assert within(kept, allowed)
    assert subset(kept, allowed)
    assert [part for part in dict.fromkeys(requested.split()) if part in parts] == parts  # in order, each once
    assert {scope.level for scope in parse_all(kept)} <= levels
    assert specials or not [part for part in parts if special(part)]
    assert all(parse(part) or special(part) for part in parts)
    assert narrowed(kept, allowed, frozenset(levels), specials) == kept


@given(lists, lists)
def test_what_is_within_the_ceiling_by_one_scope_is_kept(requested, allowed):
    kept = narrowed(requested, allowed, specials=True).split()
    for part in requested.split():
        alone = any(within(part, one) and parse(part) and parse(one) for one in allowed.split())
        assert not alone or part in kept
        assert not (special(part) and part in allowed.split()) or part in kept


def test_a_launch_with_a_role_is_allowed_by_the_launch_without():
    assert narrowed("launch/patient?role=x", "launch/patient", specials=True) == "launch/patient?role=x"
    assert narrowed("launch/patient?role=x", "launch/encounter", specials=True) == ""
    assert narrowed("launch/patient", "launch/patient") == ""


@pytest.mark.parametrize(
    ("asked", "held", "covered"),
    [
        ("user/Observation.rs?category=laboratory", "user/Observation.rs", True),
        ("user/Observation.rs", "user/Observation.rs?category=laboratory", False),
        ("user/Observation.rs?category=laboratory&status=final", "user/Observation.rs?status=final", True),
        ("user/Observation.rs?category=laboratory", "user/Observation.rs?category=vital-signs", False),
        ("user/*.r", "user/Observation.r user/Patient.r", False),
        ("user/Observation.read", "user/*.rs", True),
        ("user/Observation.rs", "user/Observation.r user/Observation.s", False),
        ("patient/Observation.r", "user/Observation.r", False),
        ("system/Observation.r", "user/*.cruds", False),
    ],
)
def test_what_covers_what(asked, held, covered):
    assert subset(asked, held) == covered
    assert (narrowed(asked, held) == asked) == covered
