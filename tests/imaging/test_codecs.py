"""Native codecs and hostile input do not meet in the server's process."""

from __future__ import annotations

import subprocess
import sys


def test_the_servers_own_process_loads_no_codec():
    code = (
        "import sys, fhirserver.app, imaging.dicomweb\n"
        "loaded = [n for n in ('gdcm', '_gdcm', 'pylibjpeg', 'openjpeg', 'rle', 'jpeg_ls', 'PIL') if sys.modules.get(n)]\n"
        "assert 'pydicom' in sys.modules\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
