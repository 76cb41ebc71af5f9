"""The image archive: DICOMweb in and out, bytes by content hash, an index in MongoDB. Knows no FHIR."""
