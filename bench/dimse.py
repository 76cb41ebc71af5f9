"""C-STORE by DCMTK's storescu: 500 CT slices of 525 KB in one association, then in four at a time.

``python bench/dimse.py``: instances a second, megabytes a second, CPU of server and database for each instance.
"""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from started import Running

SLICES = 500
ELEMENTS = """
    SpecificCharacterSet ImageType SOPClassUID StudyDate SeriesDate ContentDate StudyTime ContentTime AccessionNumber Modality
    Manufacturer InstitutionName ReferringPhysicianName StationName StudyDescription SeriesDescription ManufacturerModelName
    PatientName PatientID PatientBirthDate PatientSex PatientAge PatientWeight BodyPartExamined ScanOptions SliceThickness KVP
    ProtocolName GantryDetectorTilt TableHeight ExposureTime XRayTubeCurrent ConvolutionKernel PatientPosition StudyID SeriesNumber
    AcquisitionNumber ImagePositionPatient ImageOrientationPatient FrameOfReferenceUID SliceLocation SamplesPerPixel
    PhotometricInterpretation PixelSpacing BitsAllocated BitsStored HighBit PixelRepresentation RescaleIntercept RescaleSlope
"""


def slices(folder: Path, count: int) -> int:
    """A series of as many elements as most scanners send. Their size."""
    dataset = pydicom.Dataset()
    whole = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    for keyword in ELEMENTS.split():
        if keyword in whole:
            setattr(dataset, keyword, whole[keyword].value)
    dataset.Rows = dataset.Columns = 512
    dataset.PixelData = bytes(range(256)) * (512 * 512 * 2 // 256)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.file_meta = whole.file_meta
    size = 0
    for number in range(count):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.InstanceNumber = number + 1
        out = io.BytesIO()
        pydicom.dcmwrite(out, dataset, enforce_file_format=True)
        (folder / f"{number}.dcm").write_bytes(out.getvalue())
        size = len(out.getvalue())
    return size


def cpu(running: Running) -> tuple[float, float]:
    import psutil

    assert running.process is not None
    own, database = psutil.Process(running.process.pid).cpu_times(), running.database.cpu_times()
    return own.user + own.system, database.user + database.system


def sent(port: int, folders: list[Path]) -> float:
    command = ["storescu", "-pdu", "131072", "-aec", "FHIRSERVER", "-aet", "BENCH", "+sd", "127.0.0.1", str(port)]
    begun = time.monotonic()
    sending = [subprocess.Popen([*command, str(folder)], stdout=subprocess.DEVNULL) for folder in folders]
    assert [process.wait(600) for process in sending] == [0] * len(folders)
    return time.monotonic() - begun


def main() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = Running(folder, dimse_port=str(port))
        running.start()
        running.command("source", "add", "BENCH", "--organization", "hospital")
        print("| associations | instances/s | MB/s | server CPU, ms each | database CPU, ms each |")
        print("|---:|---:|---:|---:|---:|")
        for associations in (1, 4):
            folders = []
            for number in range(associations):
                folders.append(folder / f"{associations}-{number}")
                folders[-1].mkdir()
                size = slices(folders[-1], SLICES // associations)
            before = cpu(running)
            seconds = sent(port, folders)
            after = cpu(running)
            count = SLICES // associations * associations
            each = [(late - early) * 1000 / count for early, late in zip(before, after, strict=True)]
            rate = count / seconds
            print(f"| {associations} | {rate:.0f} | {rate * size / 1e6:.0f} | {each[0]:.2f} | {each[1]:.2f} |")
        running.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
