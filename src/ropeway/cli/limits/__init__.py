"""`ropeway limits …`: what holds jobs back, who holds it, and other numbers for it."""

import typer

from ropeway.cli.limits import change, look

app: typer.Typer = typer.Typer(
    no_args_is_help=True, help="Look at limits and change them while workers run."
)

app.command("list")(look.list_limits)
app.command("show")(look.show_limit)
app.command("set")(change.set_limit)
app.command("reset")(change.reset_limit)
