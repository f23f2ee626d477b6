"""``serve``: run the node."""

from pathlib import Path

import click

from node.cli.options import node_options, print_json


@click.command()
@node_options
def serve(folder: Path, as_json: bool) -> int:
    """Serve documents until stopped (SIGTERM or Ctrl-C)."""
    # Imported here, so that no other command waits for the servers' libraries.
    from node.serving import AlreadyServing
    from node.serving import serve as run

    def announce(addresses: list[str]) -> None:
        if as_json:
            print_json({"serving": addresses})
        else:
            click.echo("\n".join(f"serving at {address}" for address in addresses))

    try:
        return run(folder, announce)
    except AlreadyServing as error:
        click.echo(str(error), err=True)
        return 1
