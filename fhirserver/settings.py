"""The environment, read once into a frozen Settings. The README's table of settings is checked against this class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Each field is the environment variable FHIRSERVER_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="FHIRSERVER_", frozen=True, extra="ignore")

    mongodb_uri: str | None = Field(None, description="A MongoDB replica set or sharded cluster; unset: the embedded server")
    database: str = Field("fhirserver", description="Name of the database")
    data_dir: Path = Field(Path("data"), description="Folder of images, audit files and the embedded database")
    blobs: str | None = Field(
        None, description="Folder of the images' bytes, or s3://bucket/prefix; unset: blobs in the data folder"
    )
    s3_endpoint: str | None = Field(None, description="URL of the S3-compatible store; unset: Amazon's")
    public_url: str | None = Field(None, description="The URL under which clients reach the server; unset: where it listens")
    organization: str = Field("centre", description="Id of the installation's own Organization, the central unit")
    organization_name: str = Field("Reading centre", description="Its name, where the server has to create it")
    resource_types: str = Field("", description="Resource types to serve beside those that the reading needs; empty: all of R4")
    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8000, description="Port to listen on")
    tls_cert: Path | None = Field(None, description="Certificate chain (PEM) to serve HTTPS with; unset: a proxy does TLS")
    tls_key: Path | None = Field(None, description="Its private key (PEM)")
    trusted_proxies: str = Field("", description="Addresses of proxies whose X-Forwarded-For is believed, with commas between")
    study_quiet_seconds: float = Field(10.0, description="A study without new images for so long is complete")
    dimse_port: int | None = Field(None, description="Port to take DICOM C-STORE and C-ECHO on; unset: none")
    dimse_host: str = Field(
        "127.0.0.1", description="Address for it; beyond loopback it needs TLS, or sources bound to addresses"
    )
    dimse_ae_title: str = Field("FHIRSERVER", description="AE title that modalities call")
    dimse_associations: int = Field(20, description="DICOM associations at a time")
    dimse_tls_cert: Path | None = Field(None, description="Certificate chain (PEM) for DICOM over TLS; unset: without TLS")
    dimse_tls_key: Path | None = Field(None, description="Its private key (PEM)")
    dimse_tls_ca: Path | None = Field(None, description="Certificates (PEM) of who signs those that modalities show")
    dimse_by_address: bool = Field(
        False, description="Whether a source may be proven by its address alone, without a certificate"
    )
    disk_reserve_bytes: int = Field(512 * 1024**2, description="With less room than this on the disk, writes are answered 507")
    log_format: Literal["text", "json"] = Field("text", description="text for people, or json: one object a line, requests too")
    metrics_token: str | None = Field(None, description="The bearer token that /metrics asks for; unset: it asks for none")
    max_upload_bytes: int = Field(4 * 1024**3, description="Largest STOW-RS request")
    max_part_bytes: int = Field(2 * 1024**3, description="Largest DICOM instance")

    @property
    def base(self) -> str:
        """The public URL, without a slash at its end."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host  # noqa: S104
        scheme = "https" if self.tls_cert else "http"
        return (self.public_url or f"{scheme}://{host}:{self.port}").rstrip("/")

    @property
    def blob_dir(self) -> Path:
        """Where the images' bytes are, or, where those are in S3, their spool and cache."""
        return Path(self.blobs) if self.blobs and not self.blobs.startswith("s3://") else self.data_dir / "blobs"
