#!/usr/bin/env bash
# The whole story with curl, against a server that has the demo (make run): an order, its images, a reader, a signed report.
# Uses fhirserver and python from .venv/bin; set URL and DATA if they are not the usual ones.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin} URL=${URL:-http://127.0.0.1:8000} DATA=${DATA:-data}
FHIR=$URL/fhir
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

token() { "$BIN/fhirserver" token --data "$DATA" --scope 'system/*.cruds user/*.cruds' "$@"; }
# ask WHO METHOD PATH [BODY]: FHIR over curl; an error is shown and ends the story
ask() { curl -sS --fail-with-body -X "$2" "$FHIR/$3" -H "Authorization: Bearer $1" -H 'Content-Type: application/fhir+json' ${4:+-d "$4"}; }
# pick EXPRESSION: a value out of the JSON on standard input, as r
pick() { "$BIN/python" -c "import json, sys; r = json.load(sys.stdin); print($1)"; }

HOSPITAL=$(token --client demo-hospital)
DISPATCHER=$(token --client demo-centre --user dispatcher)
ANNA=$(token --client demo-centre --user anna)
number=$(date +%s)

echo "1 The hospital orders a reading: patient and order in one transaction."
PERSON=urn:uuid:00000000-0000-4000-8000-000000000001
ORDER=$(ask "$HOSPITAL" POST "" '{"resourceType": "Bundle", "type": "transaction", "entry": [
  {"fullUrl": "'$PERSON'", "request": {"method": "POST", "url": "Patient"}, "resource": {"resourceType": "Patient",
    "identifier": [{"system": "https://hospital.example/patients", "value": "S'$number'"}],
    "name": [{"family": "Nowak", "given": ["Julia"]}], "birthDate": "1970-05-02"}},
  {"request": {"method": "POST", "url": "ServiceRequest"}, "resource": {"resourceType": "ServiceRequest",
    "identifier": [{"system": "https://hospital.example/accessions", "value": "A'$number'"}],
    "status": "active", "intent": "order", "priority": "urgent", "code": {"text": "CT of the head"},
    "subject": {"reference": "'$PERSON'"}, "reasonCode": [{"text": "fall; bleeding?"}]}}]}' \
  | pick 'r["entry"][1]["resource"]["id"]')
echo "  ServiceRequest/$ORDER"

echo "2 It dispatches the order to the centre; the images are still to come."
T0=$(ask "$HOSPITAL" POST "ServiceRequest/$ORDER/\$dispatch" '{"resourceType": "Parameters", "parameter": [
  {"name": "destination", "valueCode": "central"}, {"name": "expectImages", "valueBoolean": true}]}' | pick 'r["id"]')
echo "  Task/$T0"

echo "3 It uploads a head CT by STOW-RS, and says that it is worse."
"$BIN/python" - "$work/ct.dcm" "S$number" "A$number" <<'PY'
import sys
from fhirserver.demo.files import sample
from imaging.dataset.files import relabelled
file, patient, accession = sys.argv[1:]
open(file, "wb").write(relabelled(sample("693_UNCI.dcm"), PatientID=patient, AccessionNumber=accession, PatientName="Nowak^Julia", PatientBirthDate="19700502"))
PY
curl -sS --fail-with-body "$URL/dicomweb/studies" -H "Authorization: Bearer $HOSPITAL" -H 'Content-Type: application/dicom' \
  --data-binary "@$work/ct.dcm" -o "$work/stored.json"
ask "$HOSPITAL" POST "ServiceRequest/$ORDER/\$prioritize" '{"resourceType": "Parameters", "parameter": [
  {"name": "priority", "valueCode": "stat"}, {"name": "reason", "valueCodeableConcept": {"text": "losing consciousness"}}]}' \
  | pick '"  priority " + r["parameter"][0]["resource"]["priority"]'

echo "4 When the study has been quiet for a while it is complete; the dispatcher assigns it to the best reader."
for _ in $(seq 60); do
  [ "$(ask "$HOSPITAL" GET "ImagingStudy?basedon=ServiceRequest/$ORDER&status=available&_summary=count" | pick 'r["total"]')" = 1 ] && break
  sleep 1
done
ATTEMPT=$(ask "$DISPATCHER" POST "Task/$T0/\$assign" '{"resourceType": "Parameters", "parameter": [{"name": "mode", "valueCode": "manual"},
  {"name": "owner", "valueReference": {"reference": "PractitionerRole/centre-anna-hospital"}}]}' | pick 'r["parameter"][0]["resource"]["id"]')
echo "  Task/$ATTEMPT"

echo "5 The reader starts, and looks at the frame."
ask "$ANNA" POST "Task/$ATTEMPT/\$claim" '{"resourceType": "Parameters", "parameter": [{"name": "start", "valueBoolean": true}]}' \
  | pick '"  " + r["status"]'
INSTANCE=$(pick 'r["00081199"]["Value"][0]["00081190"]["Value"][0]' < "$work/stored.json")
curl -sS --fail-with-body "$INSTANCE/frames/1" -H "Authorization: Bearer $ANNA" -H 'Accept: application/octet-stream' -o "$work/frame"
echo "  $(stat -c %s "$work/frame") bytes of pixels"

echo "6 She opens a report, answers its questions and signs it."
ask "$ANNA" POST "Task/$ATTEMPT/\$start-report" > "$work/opened.json"
REPORT=$(pick 'r["parameter"][0]["resource"]["id"]' < "$work/opened.json")
DRAFT=$(pick 'r["parameter"][1]["resource"]["id"]' < "$work/opened.json")
ask "$ANNA" PUT "QuestionnaireResponse/$DRAFT" "$(pick 'json.dumps(r["parameter"][1]["resource"] | {"item": [
  {"linkId": "findings", "answer": [{"valueString": "Thin right subdural collection."}]},
  {"linkId": "impression", "answer": [{"valueString": "Acute subdural haematoma."}]}]})' < "$work/opened.json")" > "$work/saved.json"
ask "$ANNA" POST "DiagnosticReport/$REPORT/\$sign" '{"resourceType": "Parameters", "parameter": [{"name": "attest", "valueBoolean": true}]}' \
  | pick '"  DiagnosticReport/" + r["parameter"][0]["resource"]["id"] + " is " + r["parameter"][0]["resource"]["status"]'

echo "7 The hospital fetches report, study and patient in one search."
ask "$HOSPITAL" GET "DiagnosticReport?based-on:ServiceRequest.identifier=A$number&_include=DiagnosticReport:subject&_include=DiagnosticReport:imaging-study" \
  | pick '"\n".join("  " + e["resource"]["resourceType"] + "/" + e["resource"]["id"] + " " + e["resource"].get("conclusion", "") for e in r["entry"])'
