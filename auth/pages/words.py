"""The words of the pages, in each language that they speak."""

from __future__ import annotations

from auth.scopes import Scope, launch, parse

LANGUAGES = ("en", "pl")
NAMES = (("en", "English"), ("pl", "Polski"))

WORDS: dict[str, tuple[str, str]] = {
    "product": ("Teleradiology", "Teleradiologia"),
    "signed_in": ("Signed in as {name}", "Zalogowano jako {name}"),
    "sign_out": ("Sign out", "Wyloguj"),
    "sign_in": ("Sign in", "Zaloguj się"),
    "user_name": ("User name", "Nazwa użytkownika"),
    "password": ("Password", "Hasło"),
    "or_with": ("or with", "lub przez"),
    "code_title": ("Second step", "Drugi krok logowania"),
    "code_text": ("Enter the six digits that your authenticator shows now.", "Wpisz sześć cyfr, które pokazuje teraz Twoja aplikacja uwierzytelniająca."),
    "code": ("Code", "Kod"),
    "continue": ("Continue", "Dalej"),
    "wrong": ("The name or the password is not right.", "Nazwa lub hasło są nieprawidłowe."),
    "wrong_code": ("This code is not right, or was used already. Wait for the next one.", "Ten kod jest nieprawidłowy lub był już użyty. Poczekaj na następny."),
    "wait": ("Too many attempts. Wait five minutes and try again.", "Zbyt wiele prób. Odczekaj pięć minut i spróbuj ponownie."),
    "again": ("This form was too old or from another page. Please try again.", "Ten formularz był nieaktualny lub pochodził z innej strony. Spróbuj ponownie."),
    "provider": ("The other provider could not sign you in. Try again, or use your password.", "Zewnętrzny dostawca nie mógł Cię zalogować. Spróbuj ponownie lub użyj hasła."),
    "unknown": ("You are not registered here yet. Ask your administrator.", "Nie masz tu jeszcze konta. Skontaktuj się z administratorem."),
    "sign_out_title": ("Sign out?", "Wylogować?"),
    "sign_out_text": ("Apps that work only while you are signed in stop too.", "Aplikacje działające tylko podczas Twojej sesji też przestaną działać."),
    "pick_Patient": ("Choose a patient", "Wybierz pacjenta"),
    "pick_Encounter": ("Choose an encounter", "Wybierz wizytę"),
    "pick_ImagingStudy": ("Choose a study", "Wybierz badanie"),
    "pick_DiagnosticReport": ("Choose a report", "Wybierz opis"),
    "pick_ServiceRequest": ("Choose an order", "Wybierz zlecenie"),
    "pick_text": ("{app} needs to know what it is about.", "{app} pyta, czego ma dotyczyć."),
    "search": ("Search", "Szukaj"),
    "search_hint": ("Name or number", "Nazwisko lub numer"),
    "none_found": ("Nothing was found that you may see.", "Nie znaleziono niczego, do czego masz dostęp."),
    "choose": ("Choose", "Wybierz"),
    "cancel": ("Back to the app", "Wróć do aplikacji"),
    "pick_more": ("The newest are shown. Search for others.", "Pokazano najnowsze. Pozostałe znajdziesz przez wyszukiwanie."),
    "consent_everybody": (
        "Some of this is about everybody's records that you have access to, not about one patient alone.",
        "Część dotyczy danych wszystkich osób, do których masz dostęp, a nie tylko jednego pacjenta.",
    ),
    "without": ("Go on without", "Dalej bez wyboru"),
    "consent_title": ("{app} asks for access", "{app} prosi o dostęp"),
    "consent_patient": ("To the record of {patient}", "Do dokumentacji pacjenta {patient}"),
    "consent_who": ("The app acts as you, {name}. It never sees more than you do.", "Aplikacja działa w Twoim imieniu, {name}. Nigdy nie zobaczy więcej niż Ty."),
    "consent_what": ("It may", "Będzie mogła"),
    "consent_remove": ("Untick what you do not want to allow.", "Odznacz to, na co nie chcesz pozwolić."),
    "consent_parts": ("Only some of it", "Tylko część"),
    "consent_offline": (
        "This app asks to keep access when you are not there, for up to 180 days since it was last used. You can end it at any time under “Apps with access”.",
        "Ta aplikacja prosi o dostęp także pod Twoją nieobecność, do 180 dni od ostatniego użycia. Możesz go w każdej chwili odebrać na stronie „Aplikacje z dostępem”.",
    ),
    "consent_wildcard": ("every kind of record there is now and there will be", "każdy rodzaj danych, który jest teraz i który pojawi się w przyszłości"),
    "consent_where": ("After your decision you return to {where}", "Po decyzji wrócisz do {where}"),
    "scope_line": ("{verbs} {what}", "{verbs}: {what}"),
    "allow": ("Allow", "Zezwól"),
    "deny": ("Deny", "Odmów"),
    "apps_title": ("Apps with access", "Aplikacje z dostępem"),
    "apps_text": ("These apps act as you. What you revoke stops within a second.", "Te aplikacje działają w Twoim imieniu. Odebrany dostęp przestaje działać w ciągu sekundy."),
    "apps_none": ("No app has access.", "Żadna aplikacja nie ma dostępu."),
    "since": ("since {when}", "od {when}"),
    "access_offline": ("also when you are not there", "także pod Twoją nieobecność"),
    "access_online": ("while you are signed in", "podczas Twojej sesji"),
    "access_none": ("for an hour at most", "najwyżej przez godzinę"),
    "revoke": ("Revoke", "Odbierz dostęp"),
    "launch_title": ("Open in an app", "Otwórz w aplikacji"),
    "launch_intent": ("What for", "W jakim celu"),
    "intent_": ("no particular purpose", "bez określonego celu"),
    "intent_review": ("review", "przegląd"),
    "intent_report": ("report", "opis"),
    "intent_compare": ("compare with priors", "porównanie z poprzednimi"),
    "launch_none": ("No app is registered that can be opened from here.", "Nie zarejestrowano aplikacji, którą można stąd otworzyć."),
    "error_title": ("This cannot continue", "Nie można kontynuować"),
    "error_client": ("The app that sent you is not registered here.", "Aplikacja, która Cię tu skierowała, nie jest zarejestrowana."),
    "error_redirect": ("The app wants you back at an address that is not registered for it, so you are not sent there.", "Aplikacja podała adres powrotu, który nie jest dla niej zarejestrowany, więc nie nastąpi tam przekierowanie."),
    "error_repeated": ("The app's request cannot be understood.", "Żądanie aplikacji jest niezrozumiałe."),
    "error_expired": ("This request is over, or belongs to another session. Go back to the app and start again.", "To żądanie wygasło lub należy do innej sesji. Wróć do aplikacji i zacznij od nowa."),
    "error_again": ("This form was too old or from another page. Go back and try again.", "Ten formularz był nieaktualny lub pochodził z innej strony. Wróć i spróbuj ponownie."),
    "error_focus": ("There is nothing that you may see here.", "Nie ma tu niczego, do czego masz dostęp."),
    "log_title": ("Who saw this record", "Kto miał dostęp do tej dokumentacji"),
    "log_text": ("The newest first; times are UTC.", "Od najnowszych; czas UTC."),
    "log_none": ("Nobody yet.", "Jeszcze nikt."),
    "log_emergency": ("emergency", "dostęp w nagłym wypadku"),
    "log_refused": ("refused", "odmowa"),
    "home": ("To the start page", "Do strony głównej"),
}  # fmt: skip

_KINDS: dict[str, tuple[str, str]] = {
    "*": ("all kinds of records", "wszystkie rodzaje danych"),
    "Patient": ("personal details", "dane osobowe"),
    "Practitioner": ("doctors and staff", "lekarze i personel"),
    "PractitionerRole": ("roles of doctors and staff", "role lekarzy i personelu"),
    "Organization": ("hospitals and practices", "szpitale i przychodnie"),
    "ServiceRequest": ("orders", "zlecenia"),
    "Task": ("work on orders", "zadania do zleceń"),
    "ImagingStudy": ("imaging studies and their images", "badania obrazowe wraz z obrazami"),
    "DiagnosticReport": ("reports", "opisy badań"),
    "Observation": ("measurements and findings", "pomiary i wyniki"),
    "Condition": ("problems and diagnoses", "problemy i rozpoznania"),
    "Encounter": ("visits", "wizyty"),
    "DocumentReference": ("documents", "dokumenty"),
    "MedicationRequest": ("prescriptions", "recepty"),
    "AllergyIntolerance": ("allergies", "alergie"),
    "Procedure": ("procedures", "zabiegi"),
    "Immunization": ("vaccinations", "szczepienia"),
    "QuestionnaireResponse": ("filled-in forms", "wypełnione formularze"),
    "Communication": ("messages", "wiadomości"),
    "Consent": ("consents", "zgody"),
    "AuditEvent": ("the log of accesses", "dziennik dostępów"),
    "Provenance": ("who wrote what", "informacje o autorach"),
    "Endpoint": ("technical addresses", "adresy techniczne"),
    "Location": ("places", "miejsca"),
}
_VERBS = (("rs", ("see", "widzieć")), ("c", ("add", "dodawać")), ("u", ("change", "zmieniać")), ("d", ("delete", "usuwać")))
_SPECIAL: dict[str, tuple[str, str]] = {
    "openid": ("know that it is you", "wiedzieć, że to Ty"),
    "fhirUser": ("know which practitioner you are", "wiedzieć, którym pracownikiem medycznym jesteś"),
    "profile": ("know your name", "znać Twoje imię i nazwisko"),
    "offline_access": ("keep access when you are not there", "zachować dostęp pod Twoją nieobecność"),
    "online_access": ("keep access while you are signed in", "zachować dostęp podczas Twojej sesji"),
    "__introspect": ("check other apps' access", "sprawdzać dostęp innych aplikacji"),
    "launch": ("know from where it was opened", "wiedzieć, skąd ją otwarto"),
}
_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_PARTS: dict[str, tuple[tuple[str, str, tuple[str, str]], ...]] = {
    "Observation": (
        ("category", f"{_CATEGORY}|vital-signs", ("vital signs", "parametry życiowe")),
        ("category", f"{_CATEGORY}|laboratory", ("laboratory", "wyniki laboratoryjne")),
        ("category", f"{_CATEGORY}|imaging", ("imaging", "wyniki badań obrazowych")),
        ("category", f"{_CATEGORY}|social-history", ("social history", "wywiad społeczny")),
        ("category", f"{_CATEGORY}|survey", ("surveys", "ankiety")),
    ),
    "Condition": (
        ("category", "http://terminology.hl7.org/CodeSystem/condition-category|problem-list-item", ("problem list", "lista problemów")),
        ("category", "http://terminology.hl7.org/CodeSystem/condition-category|encounter-diagnosis", ("diagnoses of visits", "rozpoznania z wizyt")),
        ("category", "http://hl7.org/fhir/us/core/CodeSystem/condition-category|health-concern", ("health concerns", "problemy zgłaszane przez pacjenta")),
    ),
    "DiagnosticReport": (
        ("category", "http://terminology.hl7.org/CodeSystem/v2-0074|RAD", ("radiology", "radiologia")),
        ("category", "http://terminology.hl7.org/CodeSystem/v2-0074|LAB", ("laboratory", "laboratorium")),
    ),
}  # fmt: skip
_OWN = {
    "patient": ("of this patient", "tego pacjenta"),
    "user": ("that you have access to", "– wszystkie, do których masz dostęp"),
    "system": ("", ""),
}
_ONLY = ("only {what}", "tylko {what}")
_CONTEXT: dict[str, tuple[str, str]] = {
    "patient": ("know which patient it is about", "wiedzieć, którego pacjenta dotyczy"),
    "encounter": ("know which visit it is about", "wiedzieć, której wizyty dotyczy"),
    "imagingstudy": ("know which study it is about", "wiedzieć, którego badania dotyczy"),
    "diagnosticreport": ("know which report it is about", "wiedzieć, którego opisu dotyczy"),
    "servicerequest": ("know which order it is about", "wiedzieć, którego zlecenia dotyczy"),
}


def kind(type_: str, code: str) -> str:
    return _KINDS[type_][LANGUAGES.index(code)] if type_ in _KINDS else type_


def scope(text: str, code: str) -> tuple[str, str]:
    """(what it is about, what the app may do) in plain language; of a scope that is not about resources the second is empty."""
    at = LANGUAGES.index(code)
    if named := launch(text):
        return _CONTEXT[named[0]][at], ""
    found = parse(text)
    if found is None:
        return _SPECIAL[text][at] if text in _SPECIAL else text, ""
    verbs = ", ".join(said[at] for letters, said in _VERBS if set(letters) & set(found.letters))
    return f"{kind(found.type, code)} {_OWN[found.level][at]}".strip() + _only(found, at), verbs


def _only(found: Scope, at: int) -> str:
    if not found.query:
        return ""
    known = {(name, value): said[at] for name, value, said in _PARTS.get(found.type, ())}
    what = ", ".join(known.get(pair, f"{pair[0]} {pair[1].rpartition('|')[2]}") for pair in found.query)
    return " (" + _ONLY[at].format(what=what) + ")"


def parts(text: str, code: str) -> list[tuple[str, str]]:
    """(scope, words) of the parts that a person may choose instead of the whole."""
    found = parse(text)
    if found is None or found.query or "." not in text:
        return []
    stem = text.rpartition(".")[0] + "." + found.letters
    return [(f"{stem}?{name}={value}", said[LANGUAGES.index(code)]) for name, value, said in _PARTS.get(found.type, ())]
