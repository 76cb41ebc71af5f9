"""OHIF's files as they are served: known paths alone, a configuration of our own, a page with a nonce for its scripts.

https://docs.ohif.org/configuration/configurationFiles
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlencode

from fhirserver.pages.viewer import installing

_HASHED = re.compile(r"(?:^|[./])[0-9a-f]{16}\.")
_TYPES = {
    ".wasm": "application/wasm",
    ".js": "text/javascript; charset=utf-8",
    ".jsonc": "application/json",
    ".woff2": "font/woff2",
}
_TOURS = json.dumps(["basicViewerTour"])
_POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
# Of a page that shares nothing with other origins: https://web.dev/articles/coop-coep
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, where it is squeezed too, and how it is told."""

    path: Path
    squeezed: Path | None
    media: str
    headers: Mapping[str, str]


class Dist:
    """``prefix``: the path of the server's public URL."""

    def __init__(self, data: Path, prefix: str) -> None:
        self._data, self.root, self._prefix = data, f"{prefix}/ohif", prefix

    @property
    def installed(self) -> bool:
        """It may come while the server runs."""
        return installing.installed(self._data)

    def url(self, uids: list[str]) -> str:
        """Where these studies are shown."""
        return f"{self.root}/viewer?{urlencode({'StudyInstanceUIDs': ','.join(uids)}, safe=',')}"

    def asset(self, path: str) -> Asset | None:
        """Looked up among the files that there are: what is asked for never becomes a path."""
        return self._assets.get(path)

    @cached_property
    def _assets(self) -> dict[str, Asset]:
        folder = installing.folder(self._data)
        files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
        hidden = {
            name for name in files if name.endswith(".gz") or name.startswith(".") or name in ("index.html", "app-config.js")
        }
        return {name: _asset(name, path, files.get(f"{name}.gz")) for name, path in files.items() if name not in hidden}

    def page(self, nonce: str) -> tuple[str, dict[str, str]]:
        """index.html: below our own path, its scripts allowed by the nonce of this answer alone."""
        headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce), "Cache-Control": "no-store", **ISOLATED}
        return self._template.replace("{nonce}", nonce), headers

    @cached_property
    def _template(self) -> str:
        text = (installing.folder(self._data) / "index.html").read_text()
        text = re.sub(r'<script[^>]*init-service-worker\.js"[^>]*></script>', "", text)
        text = re.sub(r'<link rel="(?:manifest|yandex-tableau-widget)"[^>]*>', "", text)
        text = text.replace('window.PUBLIC_URL="/"', f'window.PUBLIC_URL="{self.root}/"')
        text = re.sub(r'\b(src|href|content)="/', rf'\1="{self.root}/', text)
        return re.sub(r"<script(?=[ >])", '<script nonce="{nonce}"', text)

    @cached_property
    def configuration(self) -> str:
        """app-config.js"""
        archive = f"{self._prefix}/dicomweb"
        source = {
            "friendlyName": "Images",
            "name": "dicomweb",
            "wadoUriRoot": archive,
            "qidoRoot": archive,
            "wadoRoot": archive,
            "qidoSupportsIncludeField": True,
            "imageRendering": "wadors",
            "thumbnailRendering": "wadors",
            "enableStudyLazyLoad": True,
            "supportsFuzzyMatching": True,
            "supportsWildcard": True,
            "singlepart": "bulkdata,pdf,video",
            "acceptHeader": ["multipart/related; type=application/octet-stream; transfer-syntax=*"],
            "omitQuotationForMultipartRequest": True,
            "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
        }
        config = {
            "routerBasename": self.root,
            "extensions": [],
            "modes": [],
            "customizationService": {},
            "showStudyList": False,
            "maxNumberOfWebWorkers": 2,
            "showPatientInfo": "visibleReadOnly",
            "showErrorDetails": "dev",
            "investigationalUseDialog": {"option": "never"},
            "defaultDataSourceName": "dicomweb",
            "dataSources": [
                {
                    "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
                    "sourceName": "dicomweb",
                    "configuration": source,
                }
            ],
        }
        ended = {
            "en": "Your access to these images has ended. Open them again.",
            "pl": "Dostęp do tych obrazów wygasł. Otwórz je ponownie.",
        }
        return _SCRIPT % (json.dumps(config, indent=1), json.dumps(_TOURS), json.dumps(ended, ensure_ascii=False))


_SCRIPT = """window.config = %s;
// The tour would lie over the image.
try { localStorage.setItem("shownTours", %s); } catch (_) { /* a browser that keeps nothing shows it */ }
// The cookie is good for a while and no longer than the session: then a viewer would wait without a word.
window.config.httpErrorHandler = (error) => {
  if (error.status !== 401 || document.getElementById("ended")) return;
  const said = %s, bar = document.createElement("p");
  bar.id = "ended";
  bar.setAttribute("role", "alert");
  bar.textContent = navigator.language.startsWith("pl") ? said.pl : said.en;
  bar.style.cssText = "position:fixed;z-index:99999;inset:0 0 auto 0;margin:0;padding:.8rem 1rem;text-align:center;font:600 1rem system-ui,sans-serif;background:#fff6e0;color:#16212b";
  document.body.append(bar);
};
"""


def _asset(name: str, path: Path, squeezed: Path | None) -> Asset:
    media = _TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    if _HASHED.search(name):
        return Asset(path, squeezed, media, {"Cache-Control": "public, max-age=31536000, immutable", **ISOLATED})
    with open(path, "rb") as file:
        etag = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    return Asset(path, squeezed, media, {"Cache-Control": "no-cache", "ETag": f'W/"{etag}"', **ISOLATED})
