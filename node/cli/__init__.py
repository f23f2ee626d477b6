"""The ``locker-node`` command. A fault is one plain line on standard error: status 2 for usage and settings, 1 for a refusal."""

import sys
from collections.abc import Sequence

import click

from node.cli.lazy import LazyGroup
from node.web.private_files import keep_others_out

INTERRUPTED = 130


COMMANDS = {
    "init": (
        "node.cli.setup:init",
        "Make a new node in FOLDER: settings, keys, database, a folder for documents, and the first operator token.",
    ),
    "check": (
        "node.cli.setup:check",
        "Look at every setting and everything the node depends on, and say in plain words what must be mended.",
    ),
    "db": ("node.cli.setup:db", "The database."),
    "ingest": ("node.cli.ingest:ingest", "Take documents in."),
    "documents": ("node.cli.documents:documents", "The documents that this node has."),
    "issuer": ("node.cli.types:issuer", "The issuers that this node answers for."),
    "type": ("node.cli.types:doc_type", "Document types: their names, search parameters and match rules."),
    "token": ("node.cli.tokens:token", "Access tokens of people and tools at this node."),
    "keys": ("node.cli.keys:keys", "This node's keys, and the keys of lockers that count no more."),
    "log": ("node.cli.logs:log", "Who read what, when, why and under which consent."),
    "register": (
        "node.cli.federation:register",
        "Introduce this node to a locker; doing it again brings what the locker knows up to date.",
    ),
    "push": (
        "node.cli.federation:push",
        "Send what waits to the lockers now; serve does this by itself every few seconds.",
    ),
    "serve": ("node.cli.service:serve", "Serve documents until stopped (SIGTERM or Ctrl-C)."),
}
"""Each command's place and the first sentence of its help."""


@click.group(
    cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="federated-locker")
def root() -> None:
    """Serve a department's documents from its own storage, and see who read what.

    Begin with: locker-node init FOLDER
    """


def main() -> None:
    """Run the command that the process was started with and end the process."""
    keep_others_out()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status; every fault is told in one line on standard error."""
    try:
        result = root.main(list(arguments), prog_name="locker-node", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        hint = f" Try {error.ctx.command_path} --help" if error.ctx else ""
        click.echo(f"{error.format_message()}{hint}", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has seen enough; Python would complain again at its end
        return 0
    except Exception as error:
        # Imported when there is a fault to name: it knows the faults of every library.
        from node.cli.faults import status_of

        status, text = status_of(error)
        click.echo(text, err=True)
        return status
