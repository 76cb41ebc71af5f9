"""DIMSE as the provider: who may associate, C-ECHO and C-STORE. (What others provide is asked for in ``peers``.)"""
