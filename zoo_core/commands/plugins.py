"""`zoo plugins`."""

from __future__ import annotations

import dataclasses
import json

import click


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--check", is_flag=True, help="Also import all that the plugins name, and read their recipes (slow).")
def command(as_json: bool, check: bool) -> None:
    """Installed plugins with versions and paths, and broken ones with the reason."""
    from zoo_core.plugins import installed

    found = installed()
    dangling = _dangling() if check else {}
    if as_json:
        rows = {
            "loaded": [
                {
                    "name": name,
                    "package": item.package,
                    "version": item.version,
                    "path": item.path,
                    **({"faults": dangling.get(name, [])} if check else {}),
                }
                for name, item in sorted(found.loaded.items())
            ],
            "broken": [dataclasses.asdict(item) for _, item in sorted(found.broken.items())],
            "blocked": list(found.blocked),
        }
        click.echo(json.dumps(rows, indent=1))
        return
    for name, item in sorted(found.loaded.items()):
        click.echo(f"{name:<12} {item.package} {item.version}  {item.path}")
        for fault in dangling.get(name, []):
            click.echo(f"{'':<12} fault: {fault}")
    for name, item in sorted(found.broken.items()):
        click.echo(f"{name:<12} {item.package} {item.version}  BROKEN: {item.reason}")
    for name in found.blocked:
        click.echo(f"{name:<12} blocked by ZOO_PLUGINS or ZOO_DISABLED")


def _dangling() -> dict[str, list[str]]:
    """References and recipes that lead nowhere, by plugin."""
    from zoo_core import catalog, recipe
    from zoo_core.errors import UserError
    from zoo_core.plugins import installed
    from zoo_core.spec import KINDS

    faults: dict[str, list[str]] = {}
    for name, item in installed().loaded.items():
        references = {f"{kind} {part}": at for kind in KINDS for part, at in item.plugin.components(kind).items()}
        references |= {label: getattr(item.plugin, label) for label in ("stages", "convert")}
        checks = [(catalog.resolve, (at, label)) for label, at in references.items() if at]
        try:
            checks += [(recipe.load, (name, known)) for known in recipe.names(name)]
        except UserError as error:
            faults.setdefault(name, []).append(str(error))
        for check, arguments in checks:
            try:
                check(*arguments)
            except UserError as error:
                faults.setdefault(name, []).append(str(error))
    return faults
