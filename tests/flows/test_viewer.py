"""Images in a person's browser: OHIF and the plain page in headless Chromium, judged by the pixels that are on the screen."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from people import PASSWORD
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from started import Running

from fhirserver.pages.viewer import installing

ROOT = Path(__file__).parents[2]
NODE = Path(__file__).parent / "smart"
# a head CT, a chest radiograph with an inverted scale, colour, a heart in 30 frames
FILES = {"CT": "693_UNCR.dcm", "CR": "RG1_J2KI.dcm", "US": "US1_UNCI.dcm", "cine": "examples_ybr_color.dcm"}
_SECONDS = 300
CANVAS = ".cornerstone-canvas"


@pytest.fixture(scope="module")
def driver() -> tuple[str, Path]:
    """Chromium, and what drives it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not (chromium and shutil.which("node") and shutil.which("npm")):
        pytest.skip("chromium, node and npm are not installed: make test-tools")
    lock, done = NODE / "package-lock.json", NODE / "node_modules" / ".of-the-lock"
    if not (NODE / "node_modules" / "puppeteer-core").exists():
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        installed = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=300)
        if installed.returncode != 0:
            pytest.skip(f"npm reaches no registry: {installed.stderr.strip().splitlines()[-1:]}")
        done.write_text(lock.read_text())
    return chromium, NODE / "viewer.mjs"


@pytest.fixture(scope="module")
def ohif() -> Path:
    """The viewer, fetched once for all runs of the tests."""
    try:
        installing.install(ROOT / ".tools", None, lambda _: None)
    except RuntimeError as error:
        pytest.skip(str(error))
    return installing.folder(ROOT / ".tools")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    server = Running(tmp_path_factory.mktemp("viewer"), log_format="json")
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def case(running: Running) -> dict[str, Any]:
    """A clerk of the hospital, whose studies they are; the hospital's system, and the references of the studies."""
    ours = ("--organization", "hospital")
    *_, token = running.commands(
        ("user", "add", "nina", "--role", "clerk", "--display", "Nina", *ours),
        ("user", "password", "nina"),
        ("client", "add", "pacs", "--secret", "secret of pacs", "--scope", "system/*.cruds", *ours),
        ("token", "--client", "pacs", "--scope", "system/*.cruds"),
        given=f"{PASSWORD}\n",
    )
    http = httpx.Client(base_url=running.url, timeout=60, headers={"Authorization": f"Bearer {token}"})
    running.clients.append(http)
    found: dict[str, Any] = {"http": http, "token": token}
    for name, file in FILES.items():
        dataset, content = pydicom.dcmread(str(get_testdata_file(file, download=False))), io.BytesIO()
        if name == "CR":  # the file says 0, which makes an image of no size
            dataset.PixelSpacing = [0.2, 0.2]
        dataset.save_as(content)
        reply = http.post("/dicomweb/studies", content=content.getvalue(), headers={"Content-Type": "application/dicom"})
        assert reply.status_code == 200, reply.text
        uid = dataset.StudyInstanceUID
        [entry] = http.get(f"/fhir/ImagingStudy?identifier=urn:oid:{uid}").json()["entry"]
        found[name], found[f"{name}-uid"] = f"ImagingStudy/{entry['resource']['id']}", str(uid)
    return found


def browse(running: Running, driver: tuple[str, Path], out: Path, *steps: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """What a person does, in a browser of their own -> what was told; ended with all that it started when it takes too long."""
    setup = {"base": running.url, "chromium": driver[0], "out": str(out), "steps": steps}
    environment = os.environ | {"SETUP": json.dumps(setup), "TMPDIR": str(running.folder)}
    process = subprocess.Popen(
        ["node", str(driver[1])],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        told, errors = process.communicate(timeout=_SECONDS)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert process.returncode == 0, errors
    found = dict(json.loads(told.strip().splitlines()[-1]))
    assert "error" not in found, found
    return found


SIGN_IN = ("sign in", {"user": "nina", "password": PASSWORD})


@pytest.fixture(scope="module")
def seen(
    running: Running, driver: Any, case: dict[str, Any], ohif: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Nina opens each study in OHIF: the first by an app's link, before she has signed in; then she signs out."""
    cache = running.folder / "data" / "cache"
    if not cache.exists():
        cache.symlink_to(ohif.parent)
    out = tmp_path_factory.mktemp("ohif")
    first, *others = FILES
    link = case["http"].post("/viewer/open", json={"study": case[first]}).json()["url"]
    steps: list[tuple[str, dict[str, Any]]] = [
        ("size", {"width": 1000, "height": 700}),
        ("open", {"path": link.removeprefix(running.url)}),
        ("drawn", {"selector": CANVAS, "name": first}),
        ("open", {"path": "/auth/login"}),
        SIGN_IN,
    ]
    for name in others:
        steps += [("open", {"path": f"/viewer?study={case[name]}"}), ("drawn", {"selector": CANVAS, "name": name})]
    steps += [
        ("open", {"path": "/auth/logout"}),
        ("click", {"selector": "main button"}),
        ("open", {"path": f"/ohif/viewer?StudyInstanceUIDs={case['US-uid']}"}),
        ("shot", {"name": "ended", "wait": 6000}),
    ]
    told = browse(running, driver, out, *steps)
    drawn = [step for step in told["told"] if step["step"] == "drawn"]
    return told | {"drawn": pictures(out, FILES, drawn), "link": link}


def pictures(out: Path, names: Iterable[str], drawn: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was told of each, with the ``picture`` cut out of the screenshot."""
    found = dict(zip(names, drawn, strict=True))
    for name, one in found.items():
        assert one["drawn"], (name, one)
        box, shot = one["box"], Image.open(out / f"{name}.png")
        x, y, width, height = (round(box[side]) for side in ("x", "y", "width", "height"))
        one["picture"] = np.asarray(shot.convert("RGB").crop((x, y, x + width, y + height)), float)
    return found


def decoded(file: str) -> np.ndarray[Any, Any]:
    """The first frame as pydicom decodes it, in 8 bits."""
    dataset = pydicom.dcmread(str(get_testdata_file(file, download=False)))
    pixels = dataset.pixel_array
    pixels = pixels[0] if int(dataset.get("NumberOfFrames", 1)) > 1 else pixels
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return np.asarray(apply_color_lut(pixels, dataset) >> 8, float)
    if pixels.ndim == 3:
        return np.asarray(pixels, float)
    shown = np.asarray(apply_voi_lut(apply_modality_lut(pixels, dataset), dataset), float)
    shown = (shown - shown.min()) / (shown.max() - shown.min()) * 255
    return 255 - shown if dataset.PhotometricInterpretation == "MONOCHROME1" else shown


def alike(screen: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> tuple[float, float]:
    """(correlation of what is on the screen with what is expected, its spread): both small, the picture cut out of its margins."""
    (height, width), (whole_height, whole_width) = expected.shape[:2], screen.shape[:2]
    scale = min(whole_width / width, whole_height / height)
    size = int(width * scale), int(height * scale)
    x, y = (whole_width - size[0]) // 2, (whole_height - size[1]) // 2
    one, other = (_small(picture) for picture in (screen[y : y + size[1], x : x + size[0]], expected))
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1]), float(one.std())


def _small(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    image = Image.fromarray(np.clip(picture, 0, 255).astype("uint8")).convert("RGB").resize((64, 64), Image.Resampling.BOX)
    return np.asarray(image, float)


# ---------------------------------------------------------------- OHIF


@pytest.mark.parametrize("name", FILES)
def test_ohif_shows_the_image_that_the_file_holds(seen, name):
    correlation, spread = alike(seen["drawn"][name]["picture"], decoded(FILES[name]))
    assert correlation > 0.9
    assert spread > 15, "not one grey"


def test_what_has_colour_is_shown_in_colour_and_what_has_none_is_not(seen):
    def colour(name: str) -> float:
        picture = _small(seen["drawn"][name]["picture"])
        return float(np.mean(picture.max(axis=2) - picture.min(axis=2)))

    assert colour("US") > 5
    assert colour("CT") < 2, "but for what the viewer writes over it"


def test_ohif_says_whose_images_they_are(seen):
    assert "CQ500-CT-310" in seen["drawn"]["CT"]["text"]
    assert "CompressedSamples, US1" in seen["drawn"]["US"]["text"]
    assert "1/30" in seen["drawn"]["cine"]["text"].replace(" ", "")


def test_ohif_runs_within_its_policy_in_a_page_of_its_own(running, seen):
    assert seen["seen"]["violations"] == []
    assert {step["isolated"] for step in seen["drawn"].values()} == {True}
    assert {url for url in seen["seen"]["urls"] if not url.startswith((running.url, "blob:", "data:"))} == set()
    wrong = [row for row in seen["seen"]["refused"] if not row[1].endswith("/favicon.ico") and row[0] != 401]
    assert wrong == []


def test_no_url_and_no_log_holds_what_opens_images(running, seen, case):
    cookies = {cookie["value"] for cookie in seen["cookies"] if cookie["name"] in ("viewer", "session")}
    assert any(
        cookie["name"] == "viewer" and cookie["httpOnly"] and cookie["sameSite"] == "Strict" for cookie in seen["cookies"]
    )
    log = running.log()
    for secret in (*cookies, case["token"]):
        assert not [url for url in seen["seen"]["urls"] if secret in url]
        assert secret not in log
    assert seen["link"].rpartition("/")[2] not in log
    assert not any(case[f"{name}-uid"] in log for name in FILES)


def test_who_signed_out_sees_no_image_and_is_told_why(seen):
    assert "Your access to these images has ended. Open them again." in seen["told"][-1]["text"]
    assert [row for row in seen["seen"]["refused"] if row[0] == 401]


# ---------------------------------------------------------------- the plain page


@pytest.fixture(scope="module")
def turned(running: Running, driver: Any, case: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Nina opens the CT and the cine as plain pages, and goes on with the keyboard; then on a phone, in Polish."""
    out = tmp_path_factory.mktemp("plain")
    where = {name: f"/viewer?study={case[name]}&plain=1" for name in FILES}
    told = browse(
        running, driver, out,
        ("size", {"width": 1200, "height": 800}),
        ("open", {"path": where["CT"]}), SIGN_IN, ("drawn", {"selector": "#image", "name": "CT"}),
        ("press", {"key": "8"}), ("drawn", {"selector": "#image", "name": "CT-bone"}),
        ("open", {"path": where["cine"]}), ("drawn", {"selector": "#image", "name": "cine"}),
        ("press", {"key": "ArrowRight"}), ("press", {"key": "ArrowDown"}), ("drawn", {"selector": "#image", "name": "third"}),
        ("press", {"key": "End"}), ("press", {"key": "ArrowRight"}), ("drawn", {"selector": "#image", "name": "last"}),
        ("size", {"width": 390, "height": 844, "mobile": True}),
        ("open", {"path": f"{where['CR']}&lang=pl"}), ("drawn", {"selector": "#image", "name": "phone"}),
        ("evaluate", {"script": "document.documentElement.scrollWidth <= innerWidth"}),
    )  # fmt: skip
    drawn = [step for step in told["told"] if step["step"] == "drawn"]
    return told | {"drawn": pictures(out, ("CT", "CT-bone", "cine", "third", "last", "phone"), drawn)}


def rendered(case: dict[str, Any], src: str, tmp_path: Path) -> np.ndarray[Any, Any]:
    reply = case["http"].get(src, headers={"Accept": "image/png"})
    assert reply.status_code == 200, reply.text
    (tmp_path / "rendered.png").write_bytes(reply.content)
    return np.asarray(Image.open(tmp_path / "rendered.png").convert("RGB"), float)


def test_the_plain_page_shows_the_image_that_the_file_holds(turned):
    for name in ("CT", "cine"):
        assert alike(turned["drawn"][name]["picture"], decoded(FILES[name]))[0] > 0.95
    assert alike(turned["drawn"]["phone"]["picture"], decoded(FILES["CR"]))[0] > 0.95


def test_keys_go_to_the_next_image_and_to_another_window(case, turned, tmp_path):
    places = [turned["drawn"][name]["text"] for name in ("cine", "third", "last")]
    assert [f"{n} / 30" in text for n, text in zip((1, 3, 30), places, strict=True)] == [True, True, True]
    requested = [url for url in turned["seen"]["urls"] if "/rendered" in url]
    for name, path in (("third", "/frames/3/rendered"), ("last", "/frames/30/rendered"), ("CT-bone", "window=400,1800,linear")):
        src = next(url for url in requested if path in url)
        assert alike(turned["drawn"][name]["picture"], rendered(case, src, tmp_path))[0] > 0.98, name
    assert any(url.endswith("/frames/4/rendered") for url in requested), "the next one is fetched before it is asked for"


def test_the_plain_page_fits_a_phone_and_speaks_polish(turned):
    assert turned["told"][-1]["value"] is True
    assert "nie do diagnozy" in turned["drawn"]["phone"]["text"]


def test_the_plain_page_runs_within_its_policy(running, turned):
    assert turned["seen"]["violations"] == []
    assert {url for url in turned["seen"]["urls"] if not url.startswith(running.url)} == set()
    assert [row for row in turned["seen"]["refused"] if not row[1].endswith("/favicon.ico")] == []
