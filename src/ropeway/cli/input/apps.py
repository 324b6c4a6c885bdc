"""From "module:attribute" to the app that it names."""

import importlib
import sys
from pathlib import Path
from typing import Any, Final, cast

from ropeway.app import Ropeway
from ropeway.cli.exits import Failure, debugging, one_line, usage

APP_HELP: Final = "The app: MODULE:ATTRIBUTE, as in `myproject.jobs:app`."


def load_app(name: str) -> Ropeway[Any]:
    """Import the module (this directory is on the path) and return the app in it.

    Raises:
        Failure: one line that says which part of the name is wrong; code 2. An error inside
            the user's own module is named with its place; code 1.
    """
    module_name, _, attribute = name.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        path = Path(module_name)
        dotted = ".".join(path.with_suffix("").parts).strip("./")
        raise usage(f"{name!r} is a file; give its module: {dotted}:{attribute or 'app'}")
    if not module_name or not attribute:
        raise usage(f"{name!r} does not name an app; give MODULE:ATTRIBUTE, as in jobs:app")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    value: Any = _import(module_name, name)
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise usage(f"{name!r}: module {module_name!r} has no {part!r}{_apps_in(value)}")
        value = getattr(value, part)
    if not isinstance(value, Ropeway):
        raise usage(
            f"{name!r} is a {type(value).__name__}, not a Ropeway app; name the variable that "
            "holds Ropeway(...)"
        )
    return cast("Ropeway[Any]", value)


def _import(module_name: str, name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise usage(
                f"{name!r}: there is no module {missing!r} here ({Path.cwd()}) or installed"
            ) from None
        raise _broken(module_name, error) from error
    except Exception as error:
        raise _broken(module_name, error) from error


def _broken(module_name: str, error: Exception) -> Failure:
    """An error of the user's module: the innermost place in it, since there is no traceback."""
    place = ""
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if "importlib" not in code.co_filename and code.co_filename != __file__:
            place = f" at {code.co_filename}:{step.tb_lineno}"
        step = step.tb_next
    more = "" if debugging() else "; ROPEWAY_DEBUG=1 shows the traceback"
    what = one_line(f"{type(error).__name__}: {error}")
    return Failure(f"importing {module_name} failed: {what}{place}{more}")


def _apps_in(owner: Any) -> str:
    """A hint at the apps that a module does have."""
    members = cast("dict[str, Any]", getattr(owner, "__dict__", {}))
    names = [name for name in members if isinstance(members[name], Ropeway)]
    return f"; its apps: {', '.join(names)}" if names else ""
