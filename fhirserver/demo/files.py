"""The demo's files: real DICOM from the PyPI packages pydicom and pydicom-data, and a referral as PDF."""

from __future__ import annotations

from importlib import resources

# file, where it is, what is ordered, body part
FILES = {
    "CT": ("693_UNCR.dcm", "CT of the head"),
    "MR": ("MR_small.dcm", "MR of the spine"),
    "CR": ("RG1_J2KI.dcm", "Chest radiograph"),
    "US": ("examples_ybr_color.dcm", "Ultrasound of the heart, cine"),
}


def sample(name: str) -> bytes:
    """Errors: RuntimeError where the files are not installed."""
    for package, folder in (("pydicom", "data/test_files"), ("data_store", "data")):
        try:
            found = resources.files(package).joinpath(folder, name)
        except ModuleNotFoundError:
            continue
        if found.is_file():
            return found.read_bytes()
    raise RuntimeError("The demo's images are in the package pydicom-data: pip install 'fhirserver[demo]'")


def referral_pdf(*lines: str) -> bytes:
    """A one-page PDF of some lines of text."""
    shown = " ".join(f"({_pdf_text(line)}) Tj 0 -24 Td" for line in lines)
    stream = f"BT /F1 16 Tf 72 760 Td {shown} ET".encode("latin-1", "replace")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    body, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return (
        body
        + b"xref\n0 6\n0000000000 65535 f \n"
        + table
        + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(body)
    )


def _pdf_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
