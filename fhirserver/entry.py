"""The program ``fhirserver``: a gateway starts without what only a server needs."""

from __future__ import annotations

import sys


def main() -> int:
    if sys.argv[1:2] == ["gateway"]:
        from fhirserver import gateway

        return gateway.main(sys.argv[2:])
    from fhirserver.__main__ import main

    return main()
