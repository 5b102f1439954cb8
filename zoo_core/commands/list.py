"""`zoo list`."""

from __future__ import annotations

import click


@click.command("list")
@click.option("--matrix", is_flag=True, help="Show which attention, discriminator and loss fits which paper.")
def command(matrix: bool) -> None:
    """Installed papers and their components; then the papers of the index that are not installed."""
    if matrix:
        return _matrix()
    return _installed()


def _installed() -> None:
    from zoo_core import registry
    from zoo_core.plugins import installed
    from zoo_core.spec import KINDS

    found = installed()
    for name, item in sorted(found.loaded.items(), key=lambda pair: (pair[0] == "core", pair[0])):
        plugin = item.plugin
        title = plugin.paper.title if plugin.paper else plugin.summary
        click.echo(f"{name:<12} {title}")
        for kind in KINDS:
            if plugin.components(kind):
                click.echo(f"{'':<12} {kind}: {', '.join(sorted(plugin.components(kind)))}")
    for name, item in sorted(found.broken.items()):
        click.echo(f"{name:<12} BROKEN: {item.reason}")
    absent = [entry for entry in registry.entries() if entry.name not in found.loaded | found.broken]
    if absent:
        click.echo("\nIn the index, not installed:")
        for entry in absent:
            click.echo(f"{entry.name:<12} {entry.status}: {entry.summary}")


def _matrix() -> None:
    """A table for each kind: a row a component, a column a paper that trains with it. Built without memory, not run."""
    from zoo_core import matrix, session

    click.echo("Components (rows) in papers' default recipes (columns): ✓ fits, a number: why not")
    for kind in matrix.KINDS:
        click.echo("\n" + "\n".join(matrix.lines(matrix.table(kind, session.rehearse))))
