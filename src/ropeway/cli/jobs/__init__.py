"""`ropeway jobs …`: find, look at and change single jobs or many."""

import typer

from ropeway.cli.jobs import act, edit, look, why

app: typer.Typer = typer.Typer(no_args_is_help=True, help="Find, look at and change jobs.")

app.command("list")(look.list_jobs)
app.command("show")(look.show_job)
app.command("logs")(look.job_logs)
app.command("why")(why.why)
app.command("retry")(act.retry)
app.command("cancel")(act.cancel)
app.command("run-now")(act.run_now)
app.command("bury")(act.bury)
app.command("move")(act.move)
app.command("delete")(act.delete)
app.command("edit")(edit.edit)
