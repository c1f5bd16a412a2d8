"""A user's own function, named as ``package.module:function``."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def import_function(path: str, what: str) -> Callable[..., Any]:
    """The function that ``path`` names. Modules are found as Python finds them, and in the working directory.

    Args:
        path: ``package.module:function``.
        what: what the function is to be, for messages.

    Raises:
        ValueError: no such path, module or function. What goes wrong within the module stays as it is.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute.isidentifier():
        raise ValueError(f"{what} {path!r} is not an import path of the form 'package.module:function'")
    try:
        with _working_directory_on_the_path():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module missing *inside* the user's module is that module's own error and stays as it is.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"{what} {path!r}: there is no module {error.name!r}; put its file where the command runs, its folder on "
            "PYTHONPATH, or install it"
        ) from error
    target = getattr(module, attribute, None)
    if not callable(target):
        raise ValueError(f"{what} {path!r}: module {module_name!r} has no function {attribute!r}")
    return target  # type: ignore[no-any-return]


@contextmanager
def _working_directory_on_the_path() -> Iterator[None]:
    """Only for the module that was asked for, and behind all others: whatever else lies in the working directory is
    never imported in a library's place."""
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before
