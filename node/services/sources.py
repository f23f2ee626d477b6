"""Where an ingest's documents come from: a manifest, or a folder laid out as ``ISSUER/DOCTYPE/DOCID.ext``."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from node.services.errors import ManifestRefused
from node.services.manifest import Entry, open_manifest


@dataclass(frozen=True, slots=True)
class Source:
    """Entries that can be read again and again; files lie beneath ``root``, a resolved path.

    ``total`` is about how many entries there are, for a progress bar. ``unknown_columns`` of a manifest are passed over.
    """

    root: Path
    entries: Callable[[], Iterable[Entry]]
    total: int
    unknown_columns: tuple[str, ...] = ()


def open_source(path: Path, encoding: str | None = None) -> Source:
    """Open a folder or a manifest, whose files lie beneath its own folder; raises ManifestRefused when it cannot be read at all."""
    if not path.exists():
        raise ManifestRefused(f"{path}: there is no such folder or file")
    if path.is_dir():
        root = path.resolve()
        return Source(root, lambda: folder_entries(root), sum(1 for _ in folder_entries(root)))
    manifest = open_manifest(path, encoding)
    return Source(path.resolve().parent, lambda: manifest, manifest.lines, manifest.columns.unknown)


def folder_entries(root: Path) -> Iterator[Entry]:
    """Yield what lies in a folder, a resolved path: a document for each file in its place, a refusal for what lies elsewhere.

    Names that begin with a dot are passed over. Files come in the order in which the system gives them, so a large folder costs
    no memory. That links to files stay inside is checked with the file itself.
    """
    for issuer in _folders(root, root):
        if isinstance(issuer, Entry):
            yield issuer
            continue
        for doc_type in _folders(issuer, root):
            if isinstance(doc_type, Entry):
                yield doc_type
            else:
                yield from _files(doc_type, root)


def _folders(folder: Path, root: Path) -> Iterator[Path | Entry]:
    """Yield the folders in a folder by name, and a refusal for each file; there are few of both."""
    for path in sorted(_visible(folder, root), key=str):
        if isinstance(path, Entry):
            yield path
        elif not path.is_dir():
            yield _refused(path, root, "this does not lie in ISSUER/DOCTYPE/")
        elif path.resolve().is_relative_to(root):
            yield path
        else:
            yield _refused(path, root, "this link leads out of the folder")


def _files(folder: Path, root: Path) -> Iterator[Entry]:
    for path in _visible(folder, root):
        if isinstance(path, Entry):
            yield path
        elif path.is_dir():
            yield _refused(path, root, "this folder lies too deep: documents lie in ISSUER/DOCTYPE/")
        else:
            name = str(path.relative_to(root))
            cells = {"file": name, "issuer": folder.parent.name, "doc_type": folder.name, "doc_id": path.stem}
            yield Entry(name, cells)


def _visible(folder: Path, root: Path) -> Iterator[Path | Entry]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield Path(entry.path)
    except OSError as error:
        yield _refused(folder, root, f"this folder cannot be read: {error.strerror}")


def _refused(path: Path, root: Path, why: str) -> Entry:
    return Entry(str(path.relative_to(root)), refusal=why)
