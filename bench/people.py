"""People for the bench: names, addresses and national numbers of four countries, from a random generator that is given.

The numbers are well-formed, check digits and all, and nobody's but by chance. PESEL: https://www.gov.pl/web/gov/czym-jest-numer-pesel
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from random import Random

PESEL = "urn:oid:2.16.840.1.113883.3.4424.1.1.616"
KVNR = "http://fhir.de/sid/gkv/kvid-10"
NHS = "https://fhir.nhs.uk/Id/nhs-number"
TCKN = "urn:oid:2.16.840.1.113883.3.3819.1.1"


@dataclass(frozen=True, slots=True)
class Country:
    """Where a patient comes from. ``cities``: (name, start of the postal code, district)."""

    code: str
    language: str
    women: tuple[str, ...]
    men: tuple[str, ...]
    families: tuple[str, ...]
    cities: tuple[tuple[str, str, str], ...]
    streets: tuple[str, ...]
    phone: str
    system: str
    share: float  # of the patients who have a national number

    @property
    def weights(self) -> list[float]:
        """Names are not used evenly: the first are the commonest."""
        return list(accumulate(1 / (rank + 8) for rank in range(len(self.families))))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _cities(text: str) -> tuple[tuple[str, str, str], ...]:
    rows = [row.split("|") for row in text.split(",")]
    return tuple((name.strip(), start, district) for name, start, district in rows)


POLAND = Country(
    "PL", "pl",
    _words("Anna Maria Katarzyna Małgorzata Agnieszka Krystyna Barbara Ewa Elżbieta Zofia Teresa Magdalena Joanna Janina Monika "
           "Danuta Jadwiga Aleksandra Halina Irena Beata Marta Dorota Helena Julia Łucja Żaneta Natalia Wiktoria Hanna"),
    _words("Jan Andrzej Piotr Krzysztof Stanisław Tomasz Paweł Józef Marcin Marek Michał Grzegorz Jerzy Tadeusz Adam Łukasz "
           "Zbigniew Ryszard Dariusz Henryk Mariusz Kazimierz Wojciech Robert Mateusz Jakub Bartłomiej Świętosław Wacław Kamil"),
    _words("Nowak Kowalski Wiśniewski Wójcik Kowalczyk Kamiński Lewandowski Zieliński Szymański Woźniak Dąbrowski Kozłowski "
           "Jankowski Mazur Wojciechowski Kwiatkowski Krawczyk Kaczmarek Piotrowski Grabowski Zając Pawłowski Michalski Król "
           "Nowakowski Wieczorek Wróbel Jabłoński Dudek Adamczyk Majewski Nowicki Olszewski Stępień Malinowski Jaworski Pawlak "
           "Górski Witkowski Walczak Sikora Rutkowski Baran Michalak Szewczyk Ostrowski Tomaszewski Zalewski Pietrzak Jasiński "
           "Wróblewski Marciniak Sadowski Zawadzki Duda Jakubowski Wilk Włodarczyk Chmielewski Borkowski Sokołowski Szczepański "
           "Sawicki Kucharski Lis Maciejewski Kubiak Kalinowski Mazurek Wysocki Kołodziej Kaźmierczak Czarnecki Sobczak Konieczny "
           "Urbański Głowacki Wasilewski Sikorski Zakrzewski Laskowski Krajewski Ziółkowski Gajewski Mróz Szulc Makowski Brzeziński "
           "Baranowski Przybylski Kaczmarczyk Błaszczyk Borowski Cieślak Górecki Szymczak Adamski Andrzejewski Kozak Leśniak"),
    _cities("Warszawa|00|mazowieckie,Kraków|30|małopolskie,Łódź|90|łódzkie,Wrocław|50|dolnośląskie,Poznań|60|wielkopolskie,"
            "Gdańsk|80|pomorskie,Szczecin|70|zachodniopomorskie,Bydgoszcz|85|kujawsko-pomorskie,Lublin|20|lubelskie,"
            "Białystok|15|podlaskie,Katowice|40|śląskie,Gdynia|81|pomorskie,Częstochowa|42|śląskie,Radom|26|mazowieckie,"
            "Rzeszów|35|podkarpackie,Toruń|87|kujawsko-pomorskie,Kielce|25|świętokrzyskie,Olsztyn|10|warmińsko-mazurskie,"
            "Zielona Góra|65|lubuskie,Opole|45|opolskie,Nowy Sącz|33|małopolskie,Suwałki|16|podlaskie"),
    _words("Polna Leśna Słoneczna Krótka Szkolna Ogrodowa Lipowa Brzozowa Łąkowa Kwiatowa Kościelna Sosnowa Zielona Parkowa "
           "Akacjowa Mickiewicza Kościuszki Sienkiewicza"),
    "+48 5", PESEL, 0.93,
)  # fmt: skip

GERMANY = Country(
    "DE", "de",
    _words("Ursula Monika Petra Sabine Renate Helga Karin Brigitte Ingrid Erika Andrea Claudia Susanne Gisela Christa Anja Jürgen "
           "Käthe Jana Leonie"),
    _words("Peter Wolfgang Michael Werner Klaus Thomas Manfred Helmut Jürgen Heinz Gerhard Andreas Hans Josef Günter Dieter Horst "
           "Uwe Jörg Lukas"),
    _words("Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Schäfer Koch Bauer Richter Klein Wolf "
           "Schröder Neumann Schwarz Zimmermann Braun Krüger Hofmann Hartmann Lange Schmitt Werner Krause Meier Lehmann Köhler "
           "Herrmann König Walter Mayer Huber Kaiser Fuchs Peters Lang Scholz Möller Weiß Jung Hahn Schubert Vogel Groß Böhm Günther"),
    _cities("Berlin|10|BE,Hamburg|20|HH,München|80|BY,Köln|50|NW,Frankfurt am Main|60|HE,Düsseldorf|40|NW,Leipzig|04|SN,"
            "Dresden|01|SN,Görlitz|02|SN,Frankfurt (Oder)|15|BB,Nürnberg|90|BY,Lübeck|23|SH"),
    _words("Hauptstraße Schulstraße Gartenstraße Bahnhofstraße Dorfstraße Bergstraße Birkenweg Lindenstraße Kirchstraße Waldstraße"),
    "+49 15", KVNR, 0.85,
)  # fmt: skip

TURKEY = Country(
    "TR", "tr",
    _words("Fatma Ayşe Emine Hatice Zeynep Elif Meryem Şerife Zehra Sultan Hanife Merve Özlem Gülşen İpek Çiğdem"),
    _words("Mehmet Mustafa Ahmet Ali Hüseyin Hasan İbrahim İsmail Osman Yusuf Murat Ömer Ramazan Halil Süleyman Çağrı"),
    _words("Yılmaz Kaya Demir Çelik Şahin Yıldız Yıldırım Öztürk Aydın Özdemir Arslan Doğan Kılıç Aslan Çetin Kara Koç Kurt Özkan "
           "Şimşek Polat Korkmaz Güneş Işık Erdoğan Bulut Keskin Ünal Turan Gül"),
    _cities("İstanbul|34|İstanbul,Ankara|06|Ankara,İzmir|35|İzmir,Bursa|16|Bursa,Eskişehir|26|Eskişehir,Muğla|48|Muğla"),
    _words("Atatürk Cumhuriyet İnönü Gazi Fatih Barbaros Menekşe Lale"),
    "+90 5", TCKN, 0.8,
)  # fmt: skip

ENGLAND = Country(
    "GB", "en",
    _words("Margaret Mary Susan Elizabeth Patricia Jean Sarah Olivia Amelia Emily Charlotte Zoë Siân Grace Alice Florence"),
    _words("John David Michael Peter Robert James William Oliver George Harry Jack Arthur Seán Thomas Charles Alfie"),
    _words("Smith Jones Taylor Brown Williams Wilson Johnson Davies Robinson Wright Thompson Evans Walker White Roberts Green Hall "
           "Wood Jackson Clarke O'Brien O'Connor Patel Khan Lewis James Phillips Mason Mitchell Rose Davis Cox Price Hughes "
           "Fitz-Gerald McDonald Ward Turner Hill Cooper"),
    _cities("London|SW1A|Greater London,Manchester|M1|Greater Manchester,Leeds|LS1|West Yorkshire,Bristol|BS1|Bristol,"
            "York|YO1|North Yorkshire,Oxford|OX1|Oxfordshire"),
    _words("High Station Church Park Victoria Queens Mill Green"),
    "+44 7", NHS, 0.85,
)  # fmt: skip

COUNTRIES = (POLAND, GERMANY, TURKEY, ENGLAND)
COUNTRY_WEIGHTS = list(accumulate((62, 18, 8, 12)))
_FAMILIES = {country.code: country.weights for country in COUNTRIES}


def family(random: Random, country: Country, woman: bool) -> str:
    """A surname; Polish adjectives follow the sex, some women have two."""
    names = random.choices(country.families, cum_weights=_FAMILIES[country.code], k=2)
    if country is POLAND and woman:
        names = [f"{name[:-1]}a" if name.endswith(("ski", "cki", "dzki", "ny")) else name for name in names]
    return f"{names[0]}-{names[1]}" if woman and random.random() < 0.07 and names[0] != names[1] else names[0]


def given(random: Random, country: Country, woman: bool) -> list[str]:
    names = random.sample(country.women if woman else country.men, 2)
    return names if random.random() < 0.25 else names[:1]


def pesel(random: Random, birth: tuple[int, int, int], woman: bool) -> str:
    """Birth date with the century in the month, a serial number whose last digit tells the sex, a check digit."""
    year, month, day = birth
    century = {18: 80, 19: 0, 20: 20, 21: 40}[year // 100]
    sex = 2 * random.randrange(5) + (0 if woman else 1)
    digits = f"{year % 100:02}{month + century:02}{day:02}{random.randrange(1000):03}{sex}"
    return digits + pesel_check(digits)


def right_to_practise(random: Random) -> str:
    """A Polish doctor's number: the check digit comes first, and is neither 0 nor 10."""
    while True:
        digits = f"{random.randrange(10**6):06}"
        check = sum(place * int(digit) for place, digit in enumerate(digits, 1)) % 11
        if 1 <= check <= 9:
            return f"{check}{digits}"


def pesel_check(digits: str) -> str:
    weighed = sum(int(digit) * weight for digit, weight in zip(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), strict=False))
    return str(-weighed % 10)


def kvnr(random: Random, birth: tuple[int, int, int], woman: bool) -> str:
    """https://de.wikipedia.org/wiki/Krankenversichertennummer: a letter, eight digits, a check digit."""
    letter, digits = random.randrange(26), f"{random.randrange(10**8):08}"
    products = [int(d) * (1 + n % 2) for n, d in enumerate(f"{letter + 1:02}{digits}")]
    return f"{chr(65 + letter)}{digits}{sum(p // 10 + p % 10 for p in products) % 10}"


def nhs(random: Random, birth: tuple[int, int, int], woman: bool) -> str:
    """https://www.datadictionary.nhs.uk/attributes/nhs_number.html: a check digit modulo 11, never 10."""
    while True:
        digits = str(random.randrange(4 * 10**8, 8 * 10**8))
        check = -sum(int(d) * (10 - n) for n, d in enumerate(digits)) % 11
        if check < 10:
            return f"{digits}{check}"


def tckn(random: Random, birth: tuple[int, int, int], woman: bool) -> str:
    """https://tr.wikipedia.org/wiki/T.C._Kimlik_Numarası: two check digits."""
    digits = [int(d) for d in str(random.randrange(10**8, 10**9))]
    digits.append((7 * sum(digits[0::2]) - sum(digits[1::2])) % 10)
    return "".join(map(str, [*digits, sum(digits) % 10]))


NUMBERS: dict[str, Callable[[Random, tuple[int, int, int], bool], str]] = {PESEL: pesel, KVNR: kvnr, NHS: nhs, TCKN: tckn}


def phone(random: Random, country: Country) -> str:
    return f"{country.phone}{random.randrange(10):01} {random.randrange(1000):03} {random.randrange(1000):03}"


def address(random: Random, country: Country) -> dict[str, object]:
    city, start, district = random.choice(country.cities)
    street, house = random.choice(country.streets), random.randrange(1, 140)
    number = random.randrange(1000)
    lines = {
        "PL": (f"ul. {street} {house}/{1 + number % 40}", f"{start}-{number:03}"),
        "DE": (f"{street} {house}", f"{start}{number:03}"),
        "TR": (f"{street} Caddesi No: {house}", f"{start}{number:03}"),
        "GB": (f"{house} {street} Road", f"{start} {number % 9 + 1}{chr(65 + number % 20)}{chr(65 + number // 50)}"),
    }
    line, code = lines[country.code]
    return {
        "use": "home", "line": [line], "city": city, "state": district, "postalCode": code, "country": country.code,
    }  # fmt: skip
