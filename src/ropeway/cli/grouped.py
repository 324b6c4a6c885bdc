"""Options that belong together, as one parameter.

Typer reads a command's options from its signature. `grouped` lets a command take dataclasses
whose fields are options, annotated as Typer wants them: the signature that Typer sees has one
parameter for each field.

    @dataclass(frozen=True)
    class Paging:
        limit: Annotated[int, typer.Option(help="...")] = 20

    @app.command()
    @grouped
    def show(name: str, paging: Paging) -> None: ...      # show NAME --limit 20
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

Command = Callable[..., None]


def grouped(command: Command) -> Command:
    """Spread the dataclass parameters of a command; their defaults are the options' defaults."""
    hints = get_type_hints(command, include_extras=True)
    flat: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Any], list[str]]] = {}
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if isinstance(kind, type) and is_dataclass(kind):
            flat += (options := _options_of(kind))
            groups[parameter.name] = (kind, [option.name for option in options])
        else:
            flat.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
    names = [parameter.name for parameter in flat]
    assert len(set(names)) == len(names), f"{command.__name__}: an option occurs twice: {names}"

    @wraps(command)
    def run(**given: Any) -> None:
        for name, (kind, options) in groups.items():
            given[name] = kind(**{option: given.pop(option) for option in options})
        command(**given)

    # Typer asks for both; `wraps` copied those of the command itself.
    run.__signature__ = inspect.Signature(flat)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return run


def _options_of(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
