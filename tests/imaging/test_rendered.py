"""PS3.18 section 8.3.5: pictures for people, compared with what the pixels say."""

from __future__ import annotations

import io
import os
import signal

import numpy as np
import psutil
import pydicom
import pytest
from files import fresh, opened, path, saved
from PIL import Image
from pydicom.pixels import apply_color_lut, pixel_array

SAMPLES = (
    "CT_small.dcm", "RG1_J2KR.dcm", "693_J2KR.dcm", "OBXXXX1A_rle_2frame.dcm", "examples_ybr_color.dcm", "US1_J2KR.dcm",
    "MR_small_jpeg_ls_lossless.dcm", "emri_small.dcm", "gdcm-US-ALOKA-16.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm", "image_dfl.dcm",
    "test-SR.dcm",
)  # fmt: skip


@pytest.fixture(scope="module")
def stored(stow):
    found = {name: opened(fresh(name)) for name in SAMPLES}
    reply = stow(*(saved(dataset) for dataset in found.values()))
    assert reply.status_code == 200, reply.text
    return found


@pytest.fixture(scope="module")
def see(web):
    def get(where: str, accept: str = "image/png") -> np.ndarray:
        reply = web().get(where, headers={"Accept": accept})
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"] == accept
        return np.asarray(Image.open(io.BytesIO(reply.content)))

    return get


def test_a_window_maps_values_to_grey_as_the_standard_says(see, stored):
    ct = stored["CT_small.dcm"]
    values = ct.pixel_array * float(ct.RescaleSlope) + float(ct.RescaleIntercept)
    shown = see(f"{path(ct)}/rendered?window=40,400,linear")
    assert np.abs(shown - np.clip(((values - 39.5) / 399 + 0.5) * 255, 0, 255)).max() <= 1
    exact = see(f"{path(ct)}/rendered?window=40,400,linear-exact")
    assert np.abs(exact - np.clip(((values - 40) / 400 + 0.5) * 255, 0, 255)).max() <= 1
    curved = see(f"{path(ct)}/rendered?window=40,400,sigmoid")
    assert np.abs(curved - 255 / (1 + np.exp(-4 * (values - 40) / 400))).max() <= 1


def test_each_frame_of_an_enhanced_image_has_its_own_values_and_window(stow, see):
    """PS3.3 C.7.6.16.2: rescale and window are in the functional groups, shared or of the frame."""
    dataset = opened(fresh("emri_small.dcm"))
    for keyword in ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "VOILUTSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)
    rescale, shared = pydicom.Dataset(), pydicom.Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = "2", "-100", "US"
    shared.PixelValueTransformationSequence = [rescale]
    windows = ((100, 500), (300, 200))
    frames = []
    for centre, width in windows:
        voi, frame = pydicom.Dataset(), pydicom.Dataset()
        voi.WindowCenter, voi.WindowWidth = str(centre), str(width)
        frame.FrameVOILUTSequence = [voi]
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    assert stow(saved(dataset)).status_code == 200
    for number, (centre, width) in enumerate(windows):
        values = dataset.pixel_array[number] * 2.0 - 100
        expected = np.clip(((values - (centre - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)
        assert np.abs(see(f"{path(dataset)}/frames/{number + 1}/rendered") - expected).max() <= 1


@pytest.mark.parametrize(("first", "vr"), [(-1024, "SS"), (64512, "US")])
def test_a_table_is_of_values_after_the_rescale_and_has_greys_of_its_own(stow, see, first, vr):
    """PS3.3 C.11.2.1.1. The first value is as signed as the values are, whatever VR it has."""
    ct = opened(fresh("CT_small.dcm"))
    for keyword in ("WindowCenter", "WindowWidth"):
        if keyword in ct:
            delattr(ct, keyword)
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", vr, [4096, first, 12])
    item.add_new("LUTData", "US", list(range(4096)))
    ct.VOILUTSequence = [item]
    assert stow(saved(ct)).status_code == 200
    values = ct.pixel_array * float(ct.RescaleSlope) + float(ct.RescaleIntercept)
    expected = np.clip(values + 1024, 0, 4095) / 4095 * 255
    assert np.abs(see(f"{path(ct)}/rendered") - expected).max() <= 1


def test_what_is_beside_the_patient_takes_no_greys(stow, see):
    """PS3.3 C.7.5.1.1.2: without a window the greys are those of the patient, not of the padding."""
    ct = opened(fresh("CT_small.dcm"))
    for keyword in ("WindowCenter", "WindowWidth"):
        if keyword in ct:
            delattr(ct, keyword)
    pixels = ct.pixel_array.copy()
    pixels[:10] = -32000
    ct.PixelData = pixels.tobytes()
    ct.add_new("PixelPaddingValue", "SS", -32000)
    assert stow(saved(ct)).status_code == 200
    low, high = int(pixels[10:].min()), int(pixels[10:].max())
    shown = see(f"{path(ct)}/rendered")
    assert np.abs(shown[10:] - (pixels[10:].astype(float) - low) / (high - low) * 255).max() <= 1
    assert not shown[:10].any()


def test_monochrome1_is_shown_the_other_way_round(see, stored):
    cr = stored["RG1_J2KR.dcm"]
    shown, values = see(f"{path(cr)}/rendered"), pixel_array(cr)
    assert shown.shape == values.shape
    assert np.corrcoef(shown.ravel()[::97], values.ravel()[::97])[0, 1] < -0.7


@pytest.mark.parametrize("name", ["OBXXXX1A_rle_2frame.dcm", "gdcm-US-ALOKA-16.dcm"])
def test_palettes_are_coloured(see, stored, name):
    dataset = stored[name]
    expected = apply_color_lut(pixel_array(dataset, index=0), dataset)
    if expected.dtype.itemsize > 1:
        expected = expected >> 8
    shown = see(f"{path(dataset)}/frames/1/rendered")
    assert shown.shape == expected.shape
    assert np.array_equal(shown, expected)


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "US1_J2KR.dcm"])
def test_ultrasound_is_in_its_colours(see, stored, name):
    dataset = stored[name]
    expected = pixel_array(dataset, index=0)  # RGB
    assert np.abs(see(f"{path(dataset)}/frames/1/rendered").astype(int) - expected).mean() < 1


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "test-SR.dcm"])
def test_each_kind_of_pixels_is_shown(see, stored, name):
    dataset = stored[name]
    shown = see(f"{path(dataset)}/frames/1/rendered", "image/jpeg")
    assert shown.shape[:2] == (dataset.Rows, dataset.Columns)
    assert shown.std() > 5


def test_frames_of_a_cine_are_different_pictures(web, stored):
    cine = stored["examples_ybr_color.dcm"]
    one, other = (web().get(f"{path(cine)}/frames/{n}/rendered").content for n in (1, 15))
    assert one != other
    many = web().get(f"{path(cine)}/frames/1,15/rendered", headers={"Accept": 'multipart/related; type="image/jpeg"'})
    assert one in many.content
    assert other in many.content
    assert web().get(f"{path(cine)}/frames/31/rendered").status_code == 404
    whole = web().get(f"{path(cine)}/rendered", headers={"Accept": 'multipart/related; type="image/jpeg"'})
    assert whole.content.count(b"Content-Type: image/jpeg") == 30


def test_a_viewport_is_filled_without_distortion_and_may_show_a_part_mirrored(see, stored):
    ct = stored["CT_small.dcm"]
    whole = see(f"{path(ct)}/rendered?window=40,400")
    assert see(f"{path(ct)}/rendered?viewport=64,32").shape == (32, 32)
    part = see(f"{path(ct)}/rendered?window=40,400&viewport=40,20,10,30,40,20")
    assert np.array_equal(part, whole[30:50, 10:50])
    mirrored = see(f"{path(ct)}/rendered?window=40,400&viewport=40,20,10,30,-40,20")
    assert np.array_equal(mirrored, part[:, ::-1])


def test_quality_is_the_size_of_a_jpeg(web, stored):
    where = f"{path(stored['CT_small.dcm'])}/rendered?quality="
    assert len(web().get(f"{where}10").content) < len(web().get(f"{where}95").content)


@pytest.mark.parametrize("level", ["study", "series", "instance", "frame"])
def test_there_is_a_thumbnail_of_each_level(web, stored, level):
    cr = stored["RG1_J2KR.dcm"]
    study, series = f"studies/{cr.StudyInstanceUID}", f"studies/{cr.StudyInstanceUID}/series/{cr.SeriesInstanceUID}"
    where = {"study": study, "series": series, "instance": path(cr), "frame": f"{path(cr)}/frames/1"}[level]
    reply = web().get(f"{where}/thumbnail")
    assert reply.headers["content-type"] == "image/jpeg"
    assert max(Image.open(io.BytesIO(reply.content)).size) == 128
    larger = web().get(f"{where}/thumbnail?viewport=300,300")
    assert max(Image.open(io.BytesIO(larger.content)).size) == 300
    assert web("office").get(f"{where}/thumbnail").status_code == 404


def test_a_study_and_a_series_are_pictures_of_all_their_instances(web, stored):
    ct = stored["CT_small.dcm"]
    for where in (f"studies/{ct.StudyInstanceUID}", f"studies/{ct.StudyInstanceUID}/series/{ct.SeriesInstanceUID}"):
        reply = web().get(f"{where}/rendered", headers={"Accept": 'multipart/related; type="image/png"'})
        assert reply.content.count(b"Content-Type: image/png") == 1


def test_what_has_no_pixels_is_not_shown(web, stored):
    report = stored["test-SR.dcm"]
    assert web().get(f"{path(report)}/rendered").status_code == 406
    assert web().get(f"{path(report)}/thumbnail").status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "window=40", "window=40,0", "window=a,b", "window=40,400,cubic", "viewport=10", "viewport=0,5", "viewport=99999,5",
        "viewport=a,b", "quality=0", "quality=101", "quality=x", "colour=red",
    ],
)  # fmt: skip
def test_a_parameter_that_makes_no_sense_is_400(web, stored, query):
    reply = web().get(f"{path(stored['CT_small.dcm'])}/rendered?{query}")
    assert reply.status_code == 400
    assert reply.json()["message"]


def test_what_is_not_done_is_told_in_a_warning(web, stored):
    reply = web().get(f"{path(stored['CT_small.dcm'])}/rendered?annotation=patient")
    assert reply.status_code == 200
    assert "annotation" in reply.headers["warning"]
    assert web().get(f"{path(stored['CT_small.dcm'])}/rendered", headers={"Accept": "image/gif"}).status_code == 406


# ---------------------------------------------------------------- hostile images


def bomb(name: str, **members) -> pydicom.Dataset:
    dataset = opened(fresh(name))
    for keyword, value in members.items():
        setattr(dataset, keyword, value)
    return dataset


def test_a_dimension_bomb_costs_one_request(web, stow, stored):
    """A header of 65,535 x 65,535 over a few bytes of RLE, which a decoder would make 4 GiB of."""
    dataset = bomb("MR_small_RLE.dcm", Rows=65535, Columns=65535)
    assert stow(saved(dataset)).status_code == 200
    reply = web().get(f"{path(dataset)}/rendered")
    assert reply.status_code == 406
    assert "too large" in reply.json()["message"]
    assert web().get(f"{path(stored['CT_small.dcm'])}/rendered?quality=77").status_code == 200


def test_a_stream_that_is_no_image_is_406(web, stow):
    dataset = bomb("MR_small_jp2klossless.dcm")
    dataset.PixelData = pydicom.encaps.encapsulate([os.urandom(2000)])
    assert stow(saved(dataset)).status_code == 200
    assert web().get(f"{path(dataset)}/rendered").status_code == 406
    assert web().get(f"{path(dataset)}/frames/1", headers={"Accept": "image/jp2"}).status_code == 200


def test_a_decoder_that_dies_or_hangs_costs_one_request(server, web, stored):
    ct = path(stored["CT_small.dcm"])
    assert web().get(f"{ct}/rendered?quality=41").status_code == 200
    ours = [p for p in psutil.Process().children(recursive=True) if "imaging.decoding.process" in " ".join(p.cmdline())]
    assert ours
    for process in ours:
        process.send_signal(signal.SIGSTOP)
    decoders = server.installation.images.decoders
    kept, decoders._seconds = decoders._seconds, 0.5
    try:
        assert web().get(f"{ct}/rendered?quality=42").status_code == 500
    finally:
        decoders._seconds = kept
        for process in ours:
            if process.is_running():
                process.kill()
    assert web().get(f"{ct}/rendered?quality=43").status_code == 200
