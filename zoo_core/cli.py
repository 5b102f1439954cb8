"""The command line. A command's module is imported only when it is needed, and imports torch only when it runs."""

from __future__ import annotations

import errno
import importlib
import keyword
import sys

import click

from zoo_core import __version__
from zoo_core.errors import UserError, did_you_mean

COMMANDS = (
    "train",
    "sample",
    "reconstruct",
    "evaluate",
    "compare",
    "report",
    "attend",
    "bench",
    "import",
    "list",
    "show",
    "plugins",
)


class Commands(click.Group):
    """Finds `zoo NAME` in `zoo_core.commands.NAME`, or `NAME_` where Python keeps the word for itself."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = f"{name}_" if keyword.iskeyword(name) else name
        return importlib.import_module(f"zoo_core.commands.{module}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            raise UserError(f'there is no command "{args[0]}"{did_you_mean(args[0], COMMANDS)}')
        return super().resolve_command(ctx, args)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="zoo")
def zoo() -> None:
    """Attention-based image generators as plugins: train, sample, measure and compare them on equal terms."""


def main() -> None:
    """Run the command line; a user's mistake is one message on stderr and exit code 2."""
    try:
        code = zoo.main(prog_name="zoo", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code if isinstance(error, click.UsageError) else 2)
    except UserError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        what = error.filename or "the output"
        click.echo(f"Error: cannot write {what} ({error.strerror}); free some space and repeat the command.", err=True)
        sys.exit(2)
