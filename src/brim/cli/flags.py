"""Flags made from settings, so that a flag's name, type, help and default are the setting's."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from brim.cli.settings import ModelSettings, read
from brim.core.errors import ConfigError

Config = Annotated[Path | None, typer.Option("--config", help="YAML file with settings by name.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, for programs.")]

Command = Callable[..., None]
ARGUMENT = "model"  # the one setting that is given without its name


def refuse_unwritable(flag: str, path: Path) -> None:
    """Before a long run: raises ConfigError where its results could not be written to `path`."""
    if not path.parent.is_dir():
        raise ConfigError(f"{flag} {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ConfigError(f"{flag} {path} is a folder: give a file in it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{flag} {path} can't be written: give another file, or the right to write there")


def takes_settings(kind: type[ModelSettings]) -> Callable[[Command], Command]:
    """Makes a command for typer of one whose first parameter is `kind`: its own flags, then all settings.

    A setting that is not given as a flag comes from the environment, the file of --config, or is the default.
    """

    def decorate(command: Command) -> Command:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        settings = [_parameter(name, field) for name, field in kind.model_fields.items()]
        config = inspect.Parameter("config", _KEYWORD, default=None, annotation=Config)

        def run(**values: Any) -> None:
            flags = {each.name: values.pop(each.name) for each in settings}
            command(read(kind, flags, values.pop("config")), **values)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        parameters = [*(each.replace(kind=_KEYWORD) for each in own), *settings, config]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """None stands for a flag that was not given."""
    default = "" if field.default in (None, []) else f" [{field.default}]"
    help = f"{field.description}{default}"
    given: Any = typer.Option(help=help, show_default=False)
    if name == ARGUMENT:
        given = typer.Argument(help=help)
    return inspect.Parameter(name, _KEYWORD, default=None, annotation=Annotated[_type(field) | None, given])


def _type(field: FieldInfo) -> Any:
    annotation: Any = field.annotation
    if type(None) in get_args(annotation):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return str if get_origin(annotation) is Literal else annotation
