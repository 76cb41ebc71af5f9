"""The report contract: what must be answered, what two readers agree on, what a person is told.

https://hl7.org/fhir/R4/questionnaireresponse.html
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.primitives import is_xhtml
from fhirserver.workflow import contract
from fhirserver.workflow.answers import DEPTH

TEMPLATE = {
    "item": [
        {
            "linkId": "g",
            "type": "group",
            "required": True,
            "text": "Group",
            "item": [{"linkId": "findings", "type": "text", "required": True, "text": "Findings"}],
        },
        {"linkId": "impression", "type": "text", "required": True, "text": "Impression"},
        {"linkId": "contrast", "type": "boolean"},
    ]
}
IMPRESSION = {"linkId": "impression", "answer": [{"valueString": "i"}]}


def item(link, *texts, **more):
    return {"linkId": link, "answer": [{"valueString": t} for t in texts]} | more


def answer(link, *answers):
    return {"linkId": link, "answer": list(answers)}


def group(link, *items):
    return {"linkId": link, "item": list(items)}


def coding(code, system="urn:x"):
    return {"valueCoding": {"system": system, "code": code}}


def question(link, type_="text", **more):
    return {"linkId": link, "type": type_} | more


def choice(link, *codes, type_="choice", **more):
    return question(link, type_, answerOption=[coding(code) for code in codes], **more)


def when(link, operator="=", **expected):
    return {"question": link, "operator": operator, **expected}


def failed(questions, items, **more):
    """(code, place) of each failure, without the place of the resource; the impression is given."""
    template = {"item": [*questions, question("impression")]}
    found = contract.failures(template, {"item": [*items, IMPRESSION]}, None, **more)
    return [(issue.code, issue.expression.removeprefix("QuestionnaireResponse.")) for issue in found]


@pytest.mark.parametrize(
    ("items", "wrong"),
    [
        ([{"linkId": "g", "item": [item("findings", "f")]}, item("impression", "i")], []),
        ([item("impression", "i")], ["QuestionnaireResponse.item.where(linkId='g')"]),
        (
            [{"linkId": "g", "item": [item("findings", " ")]}, item("impression", "i")],
            ["QuestionnaireResponse.item[0].item.where(linkId='findings')"],
        ),
        (
            [{"linkId": "g", "item": [item("findings", "f")]}],
            ["QuestionnaireResponse.item.where(linkId='impression')", "QuestionnaireResponse.item"],
        ),
        (
            [{"linkId": "g", "item": [item("findings", "f", "g")]}, item("impression", "i")],
            ["QuestionnaireResponse.item[0].item.where(linkId='findings')"],
        ),
        (
            [{"linkId": "g", "item": [item("findings", "f")]}, item("impression", "i"), item("other", "x")],
            ["QuestionnaireResponse.item[2]"],
        ),
        (
            [{"linkId": "g", "item": [item("findings", "f")]}, item("impression", "i"), item("contrast", "x")],
            ["QuestionnaireResponse.item[2].answer"],
        ),
    ],
)
def test_each_contract_item_that_is_not_met_is_named(items, wrong):
    assert [issue.expression for issue in contract.failures(TEMPLATE, {"item": items}, None)] == wrong


def test_the_language_of_the_contract():
    response = {"language": "de", "item": [{"linkId": "g", "item": [item("findings", "f")]}, item("impression", "i")]}
    assert [i.expression for i in contract.failures(TEMPLATE, response, "pl")] == ["QuestionnaireResponse.language"]
    assert contract.failures(TEMPLATE, response, "de-AT") == []


def test_free_text_asks_for_the_impression_alone():
    assert contract.failures(contract.FREE_TEXT, {"item": [IMPRESSION]}, None) == []
    wrong = contract.failures(contract.FREE_TEXT, {"item": []}, None)
    assert [issue.expression for issue in wrong] == [
        "QuestionnaireResponse.item.where(linkId='impression')",
        "QuestionnaireResponse.item",
    ]


OTHER_SYSTEM = {"valueCoding": {"system": "urn:y", "code": "a"}}


@pytest.mark.parametrize(
    ("asked", "said", "wrong"),
    [
        (choice("q", "a", "b"), [coding("a")], []),
        (choice("q", "a", "b"), [coding("c")], [("code-invalid", "item[0].answer")]),
        (choice("q", "a", "b"), [OTHER_SYSTEM], [("code-invalid", "item[0].answer")]),
        (choice("q", "a", "b"), [{"valueCoding": {"display": "urn:x|a"}}], [("code-invalid", "item[0].answer")]),
        (choice("q", "a", "b"), [{"valueString": "a"}], [("value", "item[0].answer")]),
        (choice("q", "a", repeats=True), [coding("a"), coding("c")], [("code-invalid", "item[0].answer[1]")]),
        (choice("q", "a", type_="open-choice"), [{"valueString": "something else"}], []),
        (choice("q", "a", type_="open-choice"), [coding("c")], [("code-invalid", "item[0].answer")]),
        (question("q", "choice"), [coding("any")], []),
        (question("q", "choice", answerOption=[{"valueString": "x"}]), [{"valueString": "x"}], []),
        (question("q", "choice", answerOption=[{"valueString": "x"}]), [{"valueString": "y"}], [("value", "item[0].answer")]),
        (question("q", "choice", answerOption=[{"valueString": "x"}]), [coding("x")], [("value", "item[0].answer")]),
        (question("q", "choice", answerOption=[{"valueInteger": 1}]), [{"valueInteger": 1}], []),
        (question("q", "integer", answerOption=[{"valueInteger": 1}]), [{"valueInteger": 2}], [("value", "item[0].answer")]),
        (question("q", "choice", answerOption=[{"valueDate": "2026"}]), [{"valueDate": "2025"}], [("value", "item[0].answer")]),
    ],
)
def test_a_coded_answer_is_one_of_the_options(asked, said, wrong):
    """https://hl7.org/fhir/R4/questionnaire-definitions.html#Questionnaire.item.answerOption"""
    assert failed([asked], [answer("q", *said)]) == wrong


@pytest.mark.parametrize(
    ("asked", "said", "wrong"),
    [
        (question("q", maxLength=3), {"valueString": "abc"}, []),
        (question("q", maxLength=3), {"valueString": "abcd"}, [("too-long", "item[0].answer")]),
        (question("q", "url", maxLength=3), {"valueUri": "urn:x"}, [("too-long", "item[0].answer")]),
        (question("q", "decimal"), {"valueInteger": 3}, []),
        (question("q", "decimal", required=True), {"valueInteger": 0}, []),
        (question("q", "boolean", required=True), {"valueBoolean": False}, []),
        (question("q", "dateTime"), {"valueDate": "2026"}, []),
        (question("q"), {"extension": [{"url": "urn:x"}]}, [("value", "item[0].answer")]),
        (question("q", "quantity", required=True), {"valueQuantity": {"unit": "mm"}}, [("required", "item.where(linkId='q')")]),
        (choice("q", "a", required=True), {"valueCoding": {"system": "urn:x"}}, [("required", "item.where(linkId='q')")]),
        (question("q", "display"), {"valueString": "x"}, [("business-rule", "item[0].answer")]),
        (question("q", "group"), {"valueString": "x"}, [("business-rule", "item[0].answer")]),
    ],
)
def test_an_answer_is_of_the_type_and_length_of_its_question(asked, said, wrong):
    assert failed([asked], [answer("q", said)]) == wrong


def test_a_question_is_there_once_and_its_name_is_quoted():
    assert failed([question("it's", repeats=True)], [item("it's", "a"), item("it's", "b")]) == [
        ("business-rule", r"item.where(linkId='it\'s')")
    ]


CONDITIONS = [
    ("boolean", "=", {"answerBoolean": True}, {"valueBoolean": True}, True),
    ("boolean", "=", {"answerBoolean": True}, {"valueBoolean": False}, False),
    ("boolean", "=", {"answerBoolean": True}, None, False),
    ("boolean", "!=", {"answerBoolean": True}, {"valueBoolean": False}, True),
    ("boolean", "!=", {"answerBoolean": True}, None, True),
    ("boolean", "exists", {"answerBoolean": True}, {"valueBoolean": False}, True),
    ("boolean", "exists", {"answerBoolean": True}, None, False),
    ("boolean", "exists", {"answerBoolean": False}, None, True),
    ("choice", "=", {"answerCoding": {"system": "urn:x", "code": "a"}}, coding("a"), True),
    ("choice", "=", {"answerCoding": {"system": "urn:x", "code": "a"}}, coding("a", "urn:y"), False),
    ("choice", ">", {"answerCoding": {"system": "urn:x", "code": "a"}}, coding("b"), False),
    ("integer", ">", {"answerInteger": 5}, {"valueInteger": 6}, True),
    ("integer", ">", {"answerInteger": 5}, {"valueInteger": 5}, False),
    ("integer", ">=", {"answerInteger": 5}, {"valueInteger": 5}, True),
    ("decimal", "<", {"answerDecimal": Decimal("0.5")}, {"valueDecimal": Decimal("0.49")}, True),
    ("decimal", "<=", {"answerDecimal": Decimal("0.5")}, {"valueDecimal": Decimal("0.50")}, True),
    ("decimal", "=", {"answerInteger": 1}, {"valueDecimal": Decimal("1.00")}, True),
    ("date", ">", {"answerDate": "2026-03"}, {"valueDate": "2026-04-01"}, True),
    ("date", ">", {"answerDate": "2026-03-02"}, {"valueDate": "2026-03"}, False),
    (
        "dateTime",
        "=",
        {"answerDateTime": "2026-03-02T12:00:00Z"},
        {"valueDateTime": "2026-03-02T14:00:00+02:00"},
        True,
    ),
    (
        "quantity",
        ">",
        {"answerQuantity": {"value": 5, "code": "mm"}},
        {"valueQuantity": {"value": 6, "code": "mm"}},
        True,
    ),
    (
        "quantity",
        ">",
        {"answerQuantity": {"value": 5, "code": "cm"}},
        {"valueQuantity": {"value": 6, "code": "mm"}},
        False,
    ),
    ("string", "=", {"answerString": "x"}, {"valueString": "x"}, True),
    ("string", "likes", {"answerString": "x"}, {"valueString": "x"}, False),
]


@pytest.mark.parametrize(("type_", "operator", "expected", "said", "enabled"), CONDITIONS)
def test_enable_when(type_, operator, expected, said, enabled):
    """https://hl7.org/fhir/R4/valueset-questionnaire-enable-operator.html"""
    asked = [question("if", type_), question("then", required=True, enableWhen=[when("if", operator, **expected)])]
    before = [answer("if", said)] if said else []
    assert failed(asked, before) == ([("required", "item.where(linkId='then')")] if enabled else [])
    wrong = [] if enabled else [("business-rule", f"item[{len(before)}]")]
    assert failed(asked, [*before, item("then", "t")]) == wrong


@pytest.mark.parametrize(("behavior", "asked"), [("any", True), ("all", False), (None, False)])
def test_enable_behavior(behavior, asked):
    conditions = [when("a", answerBoolean=True), when("b", answerBoolean=True)]
    then = question("then", required=True, enableWhen=conditions) | ({"enableBehavior": behavior} if behavior else {})
    wrong = failed([question("a", "boolean"), question("b", "boolean"), then], [answer("a", {"valueBoolean": True})])
    assert bool(wrong) is asked


def test_a_group_that_is_not_enabled_asks_nothing_and_a_blank_one_is_no_answer():
    inner = question("inner", required=True)
    asked = [
        question("if", "boolean"),
        question("g", "group", required=True, item=[inner], enableWhen=[when("if", answerBoolean=True)]),
    ]
    assert failed(asked, []) == []
    assert failed(asked, [group("g", {"linkId": "inner"})]) == []
    assert failed(asked, [group("g", item("inner", "x"))]) == [("business-rule", "item[0]")]
    assert failed(asked, [answer("if", {"valueBoolean": True})]) == [("required", "item.where(linkId='g')")]


def test_each_of_a_repeating_group_is_checked_by_its_own_answers():
    size = question("size", "decimal", required=True, enableWhen=[when("mass", answerBoolean=True)])
    asked = [question("lesion", "group", repeats=True, item=[question("mass", "boolean"), size])]
    mass, sized = answer("mass", {"valueBoolean": True}), answer("size", {"valueDecimal": 3})
    assert failed(asked, [group("lesion", mass, sized), group("lesion", answer("mass", {"valueBoolean": False}))]) == []
    assert failed(asked, [group("lesion", mass, sized), group("lesion", mass)]) == [
        ("required", "item[1].item.where(linkId='size')")
    ]
    # The mass of the first lesion is not the second's
    assert failed(asked, [group("lesion", mass, sized), group("lesion", sized)]) == [("business-rule", "item[1].item[0]")]


def test_a_group_that_does_not_repeat_is_there_once():
    asked = [question("g", "group", item=[question("x")])]
    twice = [group("g", item("x", "1")), group("g", item("x", "2"))]
    assert failed(asked, twice) == [("business-rule", "item.where(linkId='g')")]


def test_a_required_group_holds_an_answer_and_an_optional_one_that_is_blank_is_not_there():
    """The draft of $start-report has each question of the template, blank."""
    blank = group("g", {"linkId": "x"})
    assert failed([question("g", "group", required=True, item=[question("x")])], [blank]) == [
        ("required", "item.where(linkId='g')")
    ]
    assert failed([question("g", "group", item=[question("x", required=True)])], [blank]) == []
    assert failed(
        [question("g", "group", item=[question("x", required=True), question("y")])], [group("g", item("y", "1"))]
    ) == [("required", "item[0].item.where(linkId='x')")]


def test_items_beneath_an_answer_are_checked_where_the_answer_is():
    asked = [question("q", "boolean", item=[question("more", required=True, enableWhen=[when("q", answerBoolean=True)])])]
    assert failed(asked, []) == []
    assert failed(asked, [answer("q", {"valueBoolean": False})]) == []
    assert failed(asked, [answer("q", {"valueBoolean": True})]) == [("required", "item[0].answer.item.where(linkId='more')")]
    assert failed(asked, [answer("q", {"valueBoolean": True, "item": [item("more", "m")]})]) == []
    # not beneath the item itself; blank, as in a draft, it says nothing
    beside = answer("q", {"valueBoolean": False}) | {"item": [item("more", "m")]}
    assert failed(asked, [beside]) == [("business-rule", "item[0].item")]
    assert failed(asked, [answer("q", {"valueBoolean": False}) | {"item": [{"linkId": "more"}]}]) == []


LOINC_COMPARISON = {"code": [{"system": "http://loinc.org", "code": "18834-2"}]}


@pytest.mark.parametrize(
    ("asked", "items", "wrong"),
    [
        ([question("comparison")], [item("comparison", "CT of May.")], []),
        ([question("comparison")], [], ["item.where(linkId='comparison')"]),
        ([question("comparison")], [item("comparison", " ")], ["item.where(linkId='comparison')"]),
        ([question("comparison", required=True)], [], ["item.where(linkId='comparison')"]),
        ([question("c", **LOINC_COMPARISON)], [], ["item.where(linkId='c')"]),
        (
            [question("g", "group", item=[question("c", **LOINC_COMPARISON)])],
            [],
            ["item.where(linkId='g').item.where(linkId='c')"],
        ),
        ([question("comparison", "group", item=[question("date", "date")])], [], ["item.where(linkId='comparison')"]),
        (
            [question("comparison", "group", item=[question("date", "date")])],
            [group("comparison", answer("date", {"valueDate": "2026"}))],
            [],
        ),
        ([question("q")], [], []),
    ],
)
def test_the_comparison_is_told_when_there_are_priors(asked, items, wrong):
    assert failed(asked, items, priors=True) == [("required", where) for where in wrong]
    if not any(one.get("required") for one in asked):
        assert failed(asked, items) == []


def test_all_failures_are_told_at_once_and_of_a_hopeless_response_the_first_hundred():
    asked = [question("a", required=True), choice("b", "x"), question("c", maxLength=1)]
    assert failed(asked, [answer("b", coding("y")), item("c", "long"), item("nowhere", "n")], priors=True) == [
        ("business-rule", "item[2]"),
        ("required", "item.where(linkId='a')"),
        ("code-invalid", "item[0].answer"),
        ("too-long", "item[1].answer"),
    ]
    assert len(failed([], [item("nowhere", "n")] * 5000)) == 100


def test_nesting_is_bounded():
    asked, said = question("q", "group", repeats=True), item("q", "x")
    for _ in range(400):
        asked, said = question("q", "group", item=[asked]), group("q", said)
    assert failed([asked], [said, group("q", item("q", "x"))])
    response = {"item": [said, IMPRESSION]}
    assert contract.conclusion(response) == "i"
    assert contract.narrative(response).count("<h") <= DEPTH + 2
    assert contract.coded({"item": [asked]}, response) == {}


TYPES = (
    "group",
    "display",
    "boolean",
    "decimal",
    "integer",
    "date",
    "dateTime",
    "string",
    "text",
    "choice",
    "open-choice",
    "quantity",
    "?",
)
NAMES = st.sampled_from(["g", "q", "r", "impression", "comparison", "'"])
VALUES = [
    *(("Boolean", value) for value in (True, False)),
    *(("Integer", value) for value in (0, -1, 10**30)),
    *(("Decimal", Decimal(value)) for value in ("0.00", "-1.50", "NaN", "sNaN", "Infinity", "1E+999999999", "1E-999999999")),
    *(("Decimal", value) for value in (0.5, float("nan"))),
    *(("String", value) for value in ("", " ", "a", "<b>\n\n\x0c&", "\n", "2026", None)),
    *(("Date", value) for value in ("2026", "2026-02", "2026-02-30", "x")),
    *(("DateTime", value) for value in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "2026-01-01T00:00:00Z")),
    *(("Coding", value) for value in ({}, {"system": "s"}, {"code": "a"}, {"system": "s", "code": "a"}, {"display": "d"})),
    *(("Quantity", value) for value in ({}, {"unit": "mm"}, {"value": Decimal("5.0"), "unit": "mm"}, {"value": "x"})),
    *(("Quantity", value) for value in ({"value": Decimal("NaN")}, {"value": 5, "comparator": "<", "code": "mm"})),
    ("Reference", {"reference": "Patient/1"}),
    ("Attachment", {"title": "t"}),
    ("Nothing", [None]),
]


def values(prefix):
    return st.sampled_from([{}, *({f"{prefix}{name}": value} for name, value in VALUES)])


CONDITIONS_OF_ANY_KIND = st.builds(
    lambda link, operator, expected: when(link, operator, **expected),
    NAMES,
    st.sampled_from(["exists", "=", "!=", ">", "<", ">=", "<=", "?"]),
    values("answer"),
)


def responses(items):
    answers = st.builds(lambda value, beneath: value | ({"item": beneath} if beneath else {}), values("value"), items)
    row = st.builds(
        lambda link, answers, beneath: {"linkId": link, "answer": answers} | ({"item": beneath} if beneath else {}),
        NAMES,
        st.lists(answers, max_size=2),
        items,
    )
    return st.lists(row, max_size=2)


def questions(items):
    row = st.fixed_dictionaries(
        {"linkId": NAMES, "type": st.sampled_from(TYPES), "required": st.booleans(), "repeats": st.booleans(), "item": items},
        optional={
            "maxLength": st.integers(0, 3),
            "enableWhen": st.lists(CONDITIONS_OF_ANY_KIND, max_size=2),
            "enableBehavior": st.sampled_from(["any", "all"]),
            "answerOption": st.lists(values("value"), max_size=2),
        },
    )
    return st.lists(row, max_size=2)


NONE: st.SearchStrategy = st.just([])
ITEMS = responses(responses(responses(NONE)))
QUESTIONS = questions(questions(questions(NONE)))


@given(QUESTIONS, ITEMS, ITEMS, st.booleans())
def test_nothing_raises_for_a_response_of_any_content(asked, items, others, priors):
    template, response, other = {"item": asked}, {"item": items}, {"item": others}
    for issue in contract.failures(template, response, "pl", priors=priors):
        assert issue.expression.startswith("QuestionnaireResponse")
    contract.narrative(response)
    assert contract.disagreements(template, response, response) == []
    assert contract.differences(response, response) == []
    changed = contract.differences(response, other)
    assert all(before != after for _, _, before, after in changed)
    assert sorted((link, after, before) for link, _, before, after in changed) == sorted(
        (link, before, after) for link, _, before, after in contract.differences(other, response)
    )


@st.composite
def contracts(draw):
    """A template and the response that answers each enabled question of it and no other."""
    asked, said, truth = [], [], {}
    for number in range(draw(st.integers(0, 6))):
        link = f"q{number}"
        kind = draw(st.sampled_from(["boolean", "choice", "text", "group"]))
        row = question(link, kind, required=draw(st.booleans()))
        on = True
        if truth and draw(st.booleans()):
            other = draw(st.sampled_from(sorted(truth)))
            row["enableWhen"] = [when(other, answerBoolean=True)]
            on = truth[other] is True
        value = draw(st.booleans())
        if kind == "boolean":
            truth[link] = value if on else None
        if kind == "choice":
            row["answerOption"] = [coding("a"), coding("b")]
        if kind == "group":
            row["item"] = [question(f"{link}.1", "integer", required=True)]
        given_ = {
            "boolean": answer(link, {"valueBoolean": value}),
            "choice": answer(link, coding("a" if value else "b")),
            "text": item(link, "t"),
            "group": group(link, answer(f"{link}.1", {"valueInteger": 1})),
        }[kind]
        asked.append(row)
        said += [given_] if on else []
    return asked, said


@given(contracts())
def test_answering_all_that_is_asked_meets_the_contract(pair):
    asked, said = pair
    assert failed(asked, said) == []
    for number, one in enumerate(said):
        required = {row["linkId"] for row in asked if row["required"]}
        left_out = failed(asked, said[:number] + said[number + 1 :])
        missing = ("required", f"item.where(linkId='{one['linkId']}')")
        assert (missing in left_out) == (one["linkId"] in required)


READING = {
    "item": [
        question(
            "findings",
            "group",
            item=[
                choice("bleeding", "yes", "no", repeats=True),
                question("shift", "quantity"),
                question("brain"),
                question("n", "decimal"),
            ],
        ),
        choice("birads", "1", "2", type_="open-choice"),
        question("urgent", "boolean"),
    ]
}


def reading(**more):
    said = {"bleeding": [coding("yes")], "shift": [{"valueQuantity": {"value": Decimal("5.0"), "unit": "mm"}}]} | more
    return {"item": [group("findings", *(answer(link, *given_) for link, given_ in said.items()))]}


def test_coded_answers_are_told_in_a_form_to_compare():
    said = reading(
        brain=[{"valueString": "free"}], birads=[coding("1"), {"valueString": "other"}], n=[{"valueDecimal": Decimal("1E+3")}]
    )
    assert contract.coded(READING, said | {"item": [*said["item"], answer("urgent", {"valueBoolean": False})]}) == {
        "bleeding": frozenset({"urn:x|yes"}),
        "shift": frozenset({"5 mm"}),
        "birads": frozenset({"urn:x|1"}),
        "n": frozenset({"1e3"}),
        "urgent": frozenset({"false"}),
    }


@pytest.mark.parametrize(
    ("more", "differing"),
    [
        ({}, []),
        ({"brain": [{"valueString": "another wording"}]}, []),
        ({"shift": [{"valueQuantity": {"value": 5, "unit": "mm"}}]}, []),
        ({"shift": [{"valueQuantity": {"value": 6, "unit": "mm"}}]}, ["shift"]),
        ({"shift": [{"valueQuantity": {"value": 5, "unit": "cm"}}]}, ["shift"]),
        ({"bleeding": [coding("no")]}, ["bleeding"]),
        ({"bleeding": [coding("no"), coding("yes")]}, ["bleeding"]),
        ({"bleeding": [], "n": [{"valueInteger": 0}]}, ["bleeding", "n"]),
    ],
)
def test_two_readers_disagree_where_their_coded_answers_differ(more, differing):
    assert contract.disagreements(READING, reading(), reading(**more)) == differing
    assert contract.disagreements(READING, reading(**more), reading()) == differing


def test_the_order_of_several_answers_is_no_disagreement():
    one, other = [coding("yes"), coding("no")], [coding("no"), coding("yes")]
    assert contract.disagreements(READING, reading(bleeding=one), reading(bleeding=other)) == []


def test_a_correction_is_told_section_by_section():
    before = {"item": [item("a", "1", text="A"), group("g", item("b", "2"), item("gone", "x")), item("l", "3"), item("l", "4")]}
    after = {
        "item": [
            item("a", "1", text="A"),
            group("g", item("b", "22")),
            item("l", "3"),
            item("l", "5"),
            item("new", "n", text="N"),
        ]
    }
    assert contract.differences(before, after) == [
        ("b", "b", "2", "22"),
        ("gone", "gone", "x", ""),
        ("l", "l", "4", "5"),
        ("new", "N", "", "n"),
    ]
    assert contract.differences(before, before) == []


def test_the_narrative_escapes_what_was_typed():
    div = contract.narrative({"item": [item("impression", "<script>alert(1)</script> & more", text="A < B")]})
    assert "<script>" not in div
    assert is_xhtml(div)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"valueString": "a"}, "a"),
        ({"valueBoolean": True}, "yes"),
        ({"valueQuantity": {"value": Decimal("6.50"), "unit": "mm"}}, "6.50 mm"),
        ({"valueQuantity": {"value": 6, "comparator": "<", "code": "mm"}}, "<6 mm"),
        ({"valueCoding": {"code": "x", "display": "Present"}}, "Present"),
        ({"valueCoding": {"code": "x"}}, "x"),
        ({"valueAttachment": {"title": "Key image"}}, "Key image"),
        ({"valueReference": {"reference": "Media/1"}}, "Media/1"),
    ],
)
def test_each_kind_of_answer_is_told(told, text):
    assert [line[2] for line in contract.lines({"item": [answer("q", told)]})] == [text]


def test_a_group_is_told_under_its_heading_and_line_breaks_are_kept():
    beneath = {"valueString": "Present", "item": [item("side", "Left", text="Side")]}
    findings = group(
        "findings", item("lungs", "Clear.\r\nNo nodule.\n\nOld scar.", text="Lungs"), answer("ptx", beneath) | {"text": "Air?"}
    )
    response = {
        "item": [
            findings | {"text": "Findings"},
            {"linkId": "blank", "text": "Blank"},
            item("impression", "Normal.", text="Impression"),
        ]
    }
    div = contract.narrative(response)
    assert div == (
        '<div xmlns="http://www.w3.org/1999/xhtml"><h3>Findings</h3>'
        "<p><b>Lungs:</b> Clear.<br/>No nodule.</p><p>Old scar.</p>"
        "<p><b>Air?</b> Present</p><p><b>Side:</b> Left</p>"
        "<h3>Impression</h3><p>Normal.</p></div>"
    )
    assert is_xhtml(div)
    assert [link for link, _, _ in contract.lines(response)] == ["lungs", "ptx", "side", "impression"]
