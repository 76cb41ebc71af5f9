"""Who asks, and what may they: OAuth 2.0 tokens, clients, users and SMART scopes. Knows neither FHIR storage nor DICOM."""
