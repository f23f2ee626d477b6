"""``locker keys`` and ``locker root``: changing keys as a matter of routine, and revoking one that was stolen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from locker.config import Settings, load_settings
from locker.keys import OPENING, REFERENCE, load_root
from locker.options import Output, plain_faults, with_options
from locker.roots import Revoked, RootUnusable, create_root, is_encrypted, open_root, publish, revoke
from locker.rotation import IN_USE, PURPOSES, WAIT, Rotated, drop, list_keys, rotate
from node.contract.key_revocation import REASONS, root_fingerprint
from node.contract.problems import InvalidCredential
from node.contract.times import MINUTE, format_time, now_us

# One key identifier in 64 begins with a hyphen, and is not to be taken for an option.
_WITH_KEY_IDS = {"ignore_unknown_options": True}
_RESTART = "Restart locker serve: running processes have read their keys at their start."


def _with_passphrase(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="A file whose first line is the root's passphrase; default: it is asked for.",
    )(command)


@click.group()
def keys() -> None:
    """The locker's keys."""


@keys.command("list")
@with_options
def keys_list(folder: Path, as_json: bool) -> None:
    """List keys: what each is for, its identifier, its state and since when."""
    with plain_faults():
        rows = list_keys(load_settings(folder).keys_path, now_us())
    table = [{**asdict(row), "since": _time(row.since_us)} for row in rows]
    for row in table:
        del row["since_us"]
    text = (f"{row['purpose']:15}  {row['kid']:43}  {row['state']}, since {row['since'] or 'unknown'}" for row in table)
    Output(as_json).show({"keys": table}, lambda: iter(text))


@keys.command("rotate")
@click.argument("purpose", type=click.Choice([*PURPOSES, REFERENCE]))
@click.option("--now", "at_once", is_flag=True, help="Publish and use a new key without waiting, as after a theft.")
@with_options
def keys_rotate(folder: Path, as_json: bool, purpose: str, at_once: bool) -> None:
    """Publish a new key for a purpose, or put the published one to use: run it twice, some minutes apart."""
    with plain_faults():
        done = rotate(load_settings(folder).keys_path, purpose, now_us(), at_once=at_once)
    Output(as_json).show(_rotated(done), lambda: _said(done))


@keys.command("drop", context_settings=_WITH_KEY_IDS)
@click.argument("kid", metavar="KID")
@click.option("--now", "early", is_flag=True, help="Although what it signed or sealed may still be about.")
@with_options
def keys_drop(folder: Path, as_json: bool, kid: str, early: bool) -> None:
    """Publish an old key no longer, or give up one that was published next; an old opening key is erased."""
    with plain_faults():
        listed = drop(load_settings(folder).keys_path, kid, now_us(), early=early)
    text = (
        f"The {listed.purpose} key {kid} ({listed.state}) is dropped. {_RESTART if listed.purpose == OPENING else ''}"
    )
    Output(as_json).show({"dropped": kid, "purpose": listed.purpose}, lambda: iter([text.strip()]))


@click.group()
def root() -> None:
    """The offline root, which revokes the locker's keys."""


@root.command("create")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_with_passphrase
@click.option("--no-passphrase", is_flag=True, help="Leave the file unprotected, as in a safe.")
@click.option("--replace", is_flag=True, help="Make another root; every node has to accept it by hand.")
@with_options
def root_create(
    folder: Path, as_json: bool, file: Path, passphrase_file: Path | None, no_passphrase: bool, replace: bool
) -> None:
    """Make a root into FILE on a removable medium; its public half is published for nodes to pin."""
    with plain_faults():
        settings = load_settings(folder)
        if no_passphrase and passphrase_file:
            raise ValueError("give --no-passphrase or --passphrase-file, not both")
        passphrase = None if no_passphrase else _passphrase(passphrase_file, confirm=True)
        made = create_root(
            settings.keys_path, file, passphrase, iss=settings.base_url, now_us=now_us(), replace_present=replace
        )
    name = root_fingerprint(made)

    def lines() -> Iterator[str]:
        yield f"The root is in {file}. Take it off this machine, and keep two copies in two places."
        yield f"Its fingerprint: {name}"
        yield "Tell it to the nodes' operators over the telephone: each sees it when registering, and pins it."

    Output(as_json).show({"file": str(file), "kid": made.kid, "fingerprint": name}, lines)


@root.command("show")
@with_options
def root_show(folder: Path, as_json: bool) -> None:
    """Show the root's fingerprint and the keys that it has revoked."""
    with plain_faults():
        known = load_root(load_settings(folder).keys_path)
        if known is None:
            raise RootUnusable("there is no root yet: locker root create FILE")
    listed = known.listed
    rows = [
        {"kid": key.kid, "revoked_at": format_time(key.revoked_us), "reason": key.reason}
        for key in (listed.keys if listed else ())
    ]
    document = {
        "fingerprint": root_fingerprint(known.key),
        "list": listed.sequence if listed else None,
        "revoked": rows,
    }

    def lines() -> Iterator[str]:
        yield f"Fingerprint: {document['fingerprint']}"
        yield from (f"revoked  {row['kid']}  {row['reason']}, {row['revoked_at']}" for row in rows)

    Output(as_json).show(document, lines)


@root.command("revoke", context_settings=_WITH_KEY_IDS)
@click.argument("kids", metavar="KID...", nargs=-1, required=True)
@click.option("--root", "file", type=click.Path(path_type=Path), required=True, help="The root's file.")
@click.option("--reason", type=click.Choice(REASONS), required=True)
@click.option("--unknown", is_flag=True, help="Revoke a key that is not known here any more.")
@_with_passphrase
@with_options
def root_revoke(
    folder: Path, as_json: bool, kids: tuple[str, ...], file: Path, reason: str, unknown: bool, passphrase_file: Path | None
) -> None:  # fmt: skip
    """Revoke keys for ever: nodes refuse all that they signed, and new ones take their place here at once."""
    with plain_faults():
        settings = load_settings(folder)
        passphrase = _passphrase(passphrase_file) if is_encrypted(file) else None
        signing = open_root(file, passphrase)
        with _refused_lists():
            done = revoke(
                settings.keys_path, signing, kids, reason, iss=settings.base_url, now_us=now_us(), unknown=unknown
            )
    _show_revoked(done, settings, as_json)


@root.command("publish")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@with_options
def root_publish(folder: Path, as_json: bool, file: Path) -> None:
    """Publish a list of revoked keys that the root has signed on another machine."""
    with plain_faults():
        settings = load_settings(folder)
        token = file.read_text("ascii").strip()
        with _refused_lists():
            done = publish(settings.keys_path, token, iss=settings.base_url, now_us=now_us())
    _show_revoked(done, settings, as_json)


@contextmanager
def _refused_lists() -> Iterator[None]:
    """Tell an officer why a list is refused, which is an answer to others in the words of a refused token."""
    try:
        yield
    except InvalidCredential as refused:
        raise RootUnusable(f"the list is not to be published ({refused.reason})") from refused


def _show_revoked(done: Revoked, settings: Settings, as_json: bool) -> None:
    address = f"{settings.base_url}/.well-known/revoked-keys"

    def lines() -> Iterator[str]:
        yield f"{len(done.listed.keys)} keys are revoked, as {address} tells; nodes ask for it every few seconds."
        yield from (f"A new {row.purpose} key is in use: {row.kid}" for row in done.replaced)
        if done.replaced:
            yield "Processes that hold a revoked key end within seconds, and serve starts others with the new one."

    document = {
        "list": done.listed.sequence, "revoked": sorted(done.listed.kids), "address": address,
        "replaced": [_rotated(row) for row in done.replaced],
    }  # fmt: skip
    Output(as_json).show(document, lines)


def _rotated(done: Rotated) -> dict[str, Any]:
    ready = None if done.state == IN_USE else format_time(done.ready_us)
    return {"purpose": done.purpose, "kid": done.kid, "state": done.state, "ready_at": ready}


def _said(done: Rotated) -> Iterator[str]:
    yield f"The {done.purpose} key {done.kid} is {done.state}."
    if done.state == IN_USE:
        yield _RESTART
    elif done.purpose == OPENING:
        yield f"{_RESTART} From then on it opens what is sealed to it."
        yield f"Run the same command again after {format_time(done.ready_us)}; then nodes seal to it."
    else:
        yield "Running processes publish it within seconds; nothing has to be restarted yet."
        yield f"Run the same command again after {format_time(done.ready_us)}, {WAIT // MINUTE} minutes from now, to use it."


def _passphrase(file: Path | None, *, confirm: bool = False) -> bytes:
    if file is None:
        return str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm)).encode("utf-8")
    lines = file.read_text("utf-8").splitlines()
    if not lines or not lines[0]:
        raise ValueError(f"{file}: the first line is the passphrase, and it is empty")
    return lines[0].encode("utf-8")


def _time(moment_us: int | None) -> str | None:
    return None if moment_us is None else format_time(moment_us)
