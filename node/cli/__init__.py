"""The ``locker-node`` command. A fault is one plain line on standard error: status 2 for usage and settings, 1 for a refusal."""

import sys
from collections.abc import Sequence

import click

from node.cli import documents, federation, ingest, logs, service, setup, tokens, types
from node.cli.faults import status_of

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="federated-locker")
def root() -> None:
    """Serve a department's documents from its own storage, and see who read what.

    Begin with: locker-node init FOLDER
    """


root.add_command(setup.init)
root.add_command(setup.check)
root.add_command(setup.db)
root.add_command(ingest.ingest)
root.add_command(documents.documents)
root.add_command(types.issuer)
root.add_command(types.doc_type)
root.add_command(tokens.token)
root.add_command(logs.log)
root.add_command(federation.register)
root.add_command(federation.push)
root.add_command(service.serve)


def main() -> None:
    """Run the command that the process was started with and end the process."""
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
        status, text = status_of(error)
        click.echo(text, err=True)
        return status
