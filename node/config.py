"""The node's settings: one TOML file and the environment, read once into a frozen record.

Environment variables begin with ``LOCKER_NODE_`` and go before the file; a double underscore steps into a table.
"""

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

SETTINGS_FILE = "node.toml"
PREFIX = "LOCKER_NODE_"


class SettingsError(Exception):
    """The settings cannot be used; the text names the file and each key that is wrong."""


def _network(text: str) -> str:
    ipaddress.ip_network(text)
    return text


def _base_url(text: str) -> str:
    if not text.startswith(("https://", "http://")) or text.endswith("/"):
        raise ValueError("write it as https://host with no slash at the end")
    return text


Network = Annotated[str, AfterValidator(_network)]
BaseURL = Annotated[str, AfterValidator(_base_url)]


class StoreSettings(BaseModel):
    """One named store: its driver and whatever options that driver documents."""

    model_config = ConfigDict(frozen=True, extra="allow")
    driver: str

    @property
    def options(self) -> dict[str, Any]:
        """The driver's own options."""
        return dict(self.model_extra or {})


class LockerLimit(BaseModel):
    """What one locker may give tickets for; an empty list does not limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    iss: BaseURL
    issuers: tuple[str, ...] = ()
    doc_types: tuple[str, ...] = ()


class Settings(BaseSettings):
    """Everything that an operator can set; ``docs/settings.md`` explains each."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__")

    folder: Path
    environment: Literal["demo", "production"] = "production"
    node_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    base_url: BaseURL
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    trusted_proxies: tuple[Network, ...] = ()
    web_processes: Annotated[int, Field(ge=1, le=64)] = 1
    database_url: SecretStr = SecretStr("sqlite:///node.db")
    stores: dict[str, StoreSettings] = {
        "main": StoreSettings.model_validate({"driver": "filesystem", "root": "storage"})
    }
    default_store: str = "main"
    exposure: Literal["direct", "gateway-only"] = "direct"
    lockers: tuple[LockerLimit, ...] = ()
    allow_private: tuple[Network, ...] = ()
    max_document_bytes: Annotated[int, Field(ge=1)] = 1024**3
    reserve_bytes: Annotated[int, Field(ge=0)] = 64 * 1024**2
    send_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 60
    receive_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 60
    drain_seconds: Annotated[float, Field(gt=0, le=3600)] = 30
    reader_threads: Annotated[int, Field(ge=1, le=64)] = 4
    revocation_poll_seconds: Annotated[float, Field(ge=0.2, le=3600)] = 5
    push_poll_seconds: Annotated[float, Field(ge=0.2, le=3600)] = 2
    pull_tries_per_resident: Annotated[int, Field(ge=1, le=1000)] = 10
    pull_tries_per_issuer: Annotated[int, Field(ge=1, le=1_000_000)] = 5000
    plugins: dict[str, dict[str, Any]] = {}
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """Let the environment go before the file, whose content comes in as arguments; the folder is the one that was asked for."""
        folder = InitSettingsSource(settings_cls, init_kwargs={"folder": init_settings()["folder"]})
        return folder, env_settings, init_settings

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if self.default_store not in self.stores:
            raise ValueError("default_store names no table under [stores]")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are given together")
        if self.uses_sqlite and self.web_processes != 1:
            raise ValueError("web_processes must be 1 on SQLite; use PostgreSQL for more")
        return self

    @property
    def uses_sqlite(self) -> bool:
        """Tell whether the embedded database is used."""
        return self.database_url.get_secret_value().startswith("sqlite")

    @property
    def resolved_database_url(self) -> str:
        """The database URL, a relative SQLite path taken from the node's folder."""
        url = self.database_url.get_secret_value()
        if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
            return f"sqlite:///{(self.folder / url.removeprefix('sqlite:///')).absolute()}"
        return url

    def path(self, path: Path) -> Path:
        """Return a path of the settings file as seen from the node's folder."""
        return path if path.is_absolute() else self.folder / path


def load_settings(folder: Path) -> Settings:
    """Read ``node.toml`` of a node's folder; raises SettingsError naming the file and every key at fault."""
    file = folder / SETTINGS_FILE
    if not file.is_file():
        raise SettingsError(
            f"{file}: there is no settings file. Name the node's folder with --folder or LOCKER_NODE_FOLDER, "
            "or make a new node: locker-node init FOLDER"
        )
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        if "folder" in content:
            raise SettingsError(f"{file}: folder: there is no such setting")
        _require_known_environment(os.environ)
        return Settings(**{**content, "folder": folder.absolute()})
    except ValidationError as error:
        raise SettingsError("\n".join(f"{file}: {_explain(row)}" for row in error.errors())) from error
    except ValueError as error:
        raise SettingsError(f"{file}: {error}") from error


def require_files(settings: Settings) -> None:
    """Raise SettingsError, naming the setting and the file, for a file that the settings name and that is not there."""
    for key in ("tls_certificate", "tls_key"):
        path = getattr(settings, key)
        if path is not None and not settings.path(path).is_file():
            raise SettingsError(f"{settings.folder / SETTINGS_FILE}: {key}: there is no file {settings.path(path)}")


def _require_known_environment(environment: Mapping[str, str]) -> None:
    known = {name.upper() for name in Settings.model_fields}
    for name in environment:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX).partition("__")[0] not in known:
            raise SettingsError(f"environment: {name}: there is no such setting")


def _explain(row: Any) -> str:
    key = ".".join(str(part) for part in row["loc"]) or "settings"
    if row["type"] == "extra_forbidden":
        return f"{key}: there is no such setting"
    if row["type"] == "missing":
        return f"{key}: this setting is missing"
    return f"{key}: {row['msg'].removeprefix('Value error, ')}"
