"""Flags, made from the fields of the frozen config classes, so that a default is written once."""

import argparse
import dataclasses
import os
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ... import PensieveError
from ...cache.disk.config import DiskConfig
from ...engine.config import EngineConfig
from ...scheduler.config import SchedulerConfig
from ..config import ServerConfig

T = TypeVar("T")

CONFIGS = (EngineConfig, ServerConfig, SchedulerConfig, DiskConfig)


class UsageError(PensieveError):
    """The command line is wrong."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of `pensieve serve`, as the command line gives them."""

    engine: EngineConfig
    server: ServerConfig
    scheduler: SchedulerConfig
    disk: DiskConfig


def add_flags(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    """Add a flag for each field of a config class: type from its annotation, help from its metadata."""
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        text = field.metadata["help"]
        if field.default not in (None, ()):
            text += f" (default: {field.default})"
        kind = flag_type(hints[field.name])
        choices = field.metadata.get("choices")
        parser.add_argument(
            flag_name(field.name),
            type=kind,
            action="append" if field.default == () else "store",
            default=None if field.default == () else field.default,  # argparse appends to a copy
            choices=choices,
            metavar=None if choices else kind.__name__.upper(),
            help=text.replace("%", "%%"),
        )


def flag_name(field_name: str) -> str:
    """Return the flag of a config's field."""
    return "--" + field_name.replace("_", "-")


def flag_type(annotation: Any) -> type[Any]:
    """Return the type of a flag's value: `int` for `int | None`, `str` for a Literal or a tuple of texts."""
    if isinstance(annotation, UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is Literal or annotation == tuple[str, ...]:
        return str
    assert annotation in (int, float, str), f"no flag can be made of {annotation}"
    return annotation  # type: ignore[no-any-return]  # just asserted to be one of three types


def read_settings(namespace: argparse.Namespace) -> Settings:
    """Build the configs from parsed flags. Raises UsageError when a config refuses a flag's value."""
    try:
        return Settings(
            read_config(EngineConfig, namespace),
            read_config(ServerConfig, namespace),
            read_config(SchedulerConfig, namespace),
            read_config(DiskConfig, namespace),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def read_config(config: type[T], namespace: argparse.Namespace) -> T:
    """Build one config from parsed flags, and from the environment where a field names a variable.

    Raises ValueError when the config refuses a value.
    """
    values = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # a dataclass
        value = getattr(namespace, field.name)
        if value is None and "variable" in field.metadata:
            value = os.environ.get(field.metadata["variable"]) or None
        values[field.name] = tuple(value or ()) if field.default == () else value
    return config(**values)
