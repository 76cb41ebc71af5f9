"""A FHIR R4 server for teleradiology."""

__version__ = "0.1.0"
__date__ = "2026-11-24"  # of this version
