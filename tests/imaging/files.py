"""Samples with other values, and paths to what is stored."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pydicom
from pydicom.data import get_testdata_file


def sample(name: str) -> bytes:
    found = get_testdata_file(name, download=False)
    assert found, name
    return Path(str(found)).read_bytes()


def opened(data: bytes) -> pydicom.FileDataset:
    return pydicom.dcmread(io.BytesIO(data))


def saved(dataset: pydicom.Dataset) -> bytes:
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=False)
    return out.getvalue()


def fresh(name: str, **members: Any) -> bytes:
    """A sample as an examination of its own."""
    dataset = opened(sample(name))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    with pydicom.config.disable_value_validation():
        for keyword, value in members.items():
            setattr(dataset, keyword, value)
    return saved(dataset)


def path(dataset: pydicom.Dataset) -> str:
    return f"studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}/instances/{dataset.SOPInstanceUID}"


def parts(reply: Any) -> list[bytes]:
    """The bodies of a multipart answer."""
    boundary = reply.headers["content-type"].split("boundary=")[1].encode()
    found = reply.content.split(b"--" + boundary)[1:-1]
    return [part.split(b"\r\n\r\n", 1)[1][:-2] for part in found]
