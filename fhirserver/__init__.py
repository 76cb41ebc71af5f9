"""A FHIR R4 server for teleradiology."""

__version__ = "0.1.0"
