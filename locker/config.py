"""The locker's settings: one TOML file and ``LOCKER_*`` in the environment, read once into a frozen record."""

import os
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

SETTINGS_FILE = "locker.toml"
PREFIX = "LOCKER_"
NODE_PREFIX = "LOCKER_NODE_"

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SettingsRefused(Exception):
    """The settings cannot be used; the text names each key and where it was read."""


class Settings(BaseSettings):
    """Everything that an operator can set; paths are relative to the settings file's folder."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__")

    environment: Literal["demo", "production"] = "production"
    name: str = Field("Document locker", min_length=1, max_length=200, description="What people call this locker")
    base_url: str = Field(description="Where others reach this locker; also the `iss` of everything it signs")
    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8400, ge=0, le=65535, description="Port to listen on")
    web_processes: int = Field(1, ge=1, le=64, description="Web processes; exactly 1 on SQLite")
    tls_certificate: Path | None = Field(None, description="PEM file, when no proxy ends TLS in front")
    tls_key: Path | None = Field(None, description="The certificate's private key, a PEM file")
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="Networks whose forwarded headers are believed"
    )
    database_url: SecretStr = Field(
        SecretStr("sqlite:///locker.db"), description="SQLAlchemy URL, SQLite or PostgreSQL"
    )
    keys_folder: Path = Field(Path("keys"), description="Folder of the private keys, readable by the service alone")
    ticket_lifetime_seconds: int = Field(600, ge=30, le=900, description="Seconds that a ticket is good for")
    access_token_lifetime_seconds: int = Field(
        600, ge=60, le=3600, description="Seconds that a client's access token is good for"
    )
    revocation_freshness_seconds: int = Field(
        300, ge=10, le=3600, description="Seconds until a revocation page is due to be followed"
    )
    consent_max_days: int = Field(366, ge=1, le=3660, description="Longest time that a consent may run")
    pulls_per_hour: int = Field(
        10, ge=1, le=1000, description="Searches that a resident may make with one issuer in an hour"
    )
    max_body_bytes: int = Field(2 * 1024 * 1024, ge=1024, description="Largest request body in bytes")
    allow_private: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="Networks that are not public in which nodes may live, with or without TLS; none unless listed"
    )
    node_connect_timeout_seconds: float = Field(5.0, gt=0, le=60, description="Seconds to wait for a node's connection")
    node_first_byte_timeout_seconds: float = Field(
        30.0, gt=0, le=300, description="Seconds to wait for a node's answer to begin"
    )
    node_idle_timeout_seconds: float = Field(
        30.0, gt=0, le=300, description="Seconds without a byte after which a node's answer is ended"
    )
    send_timeout_seconds: float = Field(
        60.0, gt=0, le=600, description="Seconds after which a client that takes nothing is ended"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged")
    folder: Path = Field(Path(), description="Folder of the settings file; set by the loader")

    @field_validator("base_url")
    @classmethod
    def _absolute(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError("write it as https://host or https://host:port, without a path")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are given together")
        if self.web_processes > 1 and self.on_sqlite:
            raise ValueError("web_processes: SQLite takes exactly 1 web process; use PostgreSQL for more")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose values come in as arguments; the folder is the one that was asked for."""
        folder = InitSettingsSource(settings_cls, init_kwargs={"folder": init_settings()["folder"]})
        return folder, env_settings, init_settings

    @property
    def on_sqlite(self) -> bool:
        """Whether the database is the embedded one."""
        return self.database_url.get_secret_value().startswith("sqlite")

    @property
    def resolved_database_url(self) -> str:
        """The database URL with a relative SQLite file placed in the settings' folder."""
        url = self.database_url.get_secret_value()
        head, path = "sqlite:///", url.removeprefix("sqlite:///")
        if not url.startswith(head) or path.startswith("/"):
            return url
        return head + str((self.folder / path).resolve())

    def path(self, path: Path) -> Path:
        """Return a path of the settings file as seen from the locker's folder."""
        return self.folder / path

    @property
    def keys_path(self) -> Path:
        """The folder of the private keys."""
        return self.folder / self.keys_folder

    @property
    def token_endpoint(self) -> str:
        """The address of the OAuth 2 token endpoint, one of the two audiences of a client assertion."""
        return f"{self.base_url}/v1/oauth/token"

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the listening socket."""
        return self.host in _LOOPBACK


def load_settings(path: Path) -> Settings:
    """Read the settings file, or the one in a folder, and the environment.

    Raises SettingsRefused that names every unknown key, wrong type and missing file.
    """
    file = path / SETTINGS_FILE if path.is_dir() else path
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsRefused(f"{file}: {error}") from error
    if "folder" in values:
        raise SettingsRefused(f"{file}: folder: not a setting")
    _require_known_environment(os.environ)
    try:
        settings = Settings(**{**values, "folder": file.parent.resolve()})
    except ValidationError as error:
        raise SettingsRefused("\n".join(_explain(file, values, error))) from error
    return _require_files(file, settings)


def _require_known_environment(environment: Mapping[str, str]) -> None:
    """Refuse what is no setting; ``LOCKER_FOLDER`` is the command's, and ``LOCKER_NODE_*`` are a node's on the same machine."""
    known = {name.upper() for name in Settings.model_fields}
    for name in environment:
        if (
            name.startswith(PREFIX)
            and not name.startswith(NODE_PREFIX)
            and name.removeprefix(PREFIX).partition("__")[0] not in known
        ):
            raise SettingsRefused(f"environment: {name}: not a setting")


def _explain(file: Path, values: Mapping[str, Any], error: ValidationError) -> list[str]:
    """Say where each bad value came from, without repeating the value: it may be a secret."""
    lines = []
    for row in error.errors(include_input=False, include_url=False):
        key = ".".join(str(part) for part in row["loc"])
        name = PREFIX + str(row["loc"][0]).upper() if row["loc"] else ""
        origin = f"environment: {name}" if name in os.environ else f"{file}: {key}" if key else str(file)
        message = "not a setting" if row["type"] == "extra_forbidden" else row["msg"].removeprefix("Value error, ")
        lines.append(f"{origin}: {message}")
    return lines


def _require_files(file: Path, settings: Settings) -> Settings:
    for key, path in (("tls_certificate", settings.tls_certificate), ("tls_key", settings.tls_key)):
        if path is not None and not settings.path(path).is_file():
            raise SettingsRefused(f"{file}: {key}: there is no file {path}")
    if not settings.keys_path.is_dir():
        raise SettingsRefused(f"{file}: keys_folder: there is no folder {settings.keys_path}")
    return settings
