"""How a setting is declared: variable, parser, meaning and default in one place."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from jobs_grpc.config.parsers import Parser

T = TypeVar("T")


class ConfigError(Exception):
    """A setting is missing or wrong. The message is one line: the variable and what it must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting, as the help and the reference page show it."""

    variable: str
    parser: Parser[object]
    meaning: str
    """What it does and what happens beyond a limit. Markdown."""
    default: object
    """MISSING if the setting is required."""
    secret: bool
    """Whether the error for a wrong value must not repeat the value."""

    @property
    def required(self) -> bool:
        """Whether the variable must be set."""
        return self.default is MISSING

    @property
    def default_text(self) -> str:
        """The default as it is written in the environment, or "unset", or "required"."""
        match self.default:
            case bool() as flag:
                return str(flag).lower()
            case float() as number:
                return f"{number:g}"
            case None | ():
                return "unset"
            case tuple() as items:
                return ",".join(map(str, items))
        return "required" if self.required else str(self.default)

    def read(self, environ: Mapping[str, str]) -> object:
        """Read and validate the value. An empty variable counts as unset. Raises ConfigError."""
        text = environ.get(self.variable)
        if not text:
            if self.required:
                raise ConfigError(f"{self.variable} is not set; it must be {self.parser.accepts}")
            return self.default
        try:
            return self.parser(text)
        except ValueError as e:
            shown = self.variable if self.secret else f"{self.variable}={text}"
            raise ConfigError(f"{shown} {e}") from None


def setting(
    variable: str, parser: Parser[T], meaning: str, *, default: T, secret: bool = False
) -> T:
    """Declare a dataclass field as a setting.

    Returns a dataclasses.Field, typed as the field's value, so that mypy checks the annotation
    of the field against the parser and the default.
    """
    return _declare(variable, parser, meaning, default, secret)


def required_setting(variable: str, parser: Parser[T], meaning: str, *, secret: bool = False) -> T:
    """Declare a setting without a default: `from_env` fails if it is not set."""
    return _declare(variable, parser, meaning, MISSING, secret)


def _declare(variable: str, parser: Parser[T], meaning: str, default: Any, secret: bool) -> T:
    declared = Setting(
        variable=variable, parser=parser, meaning=meaning, default=default, secret=secret
    )
    value: T = field(default=default, metadata={"setting": declared})
    return value


def settings_of(group: type) -> Iterator[tuple[str, Setting]]:
    """The fields of a group and their settings, in order."""
    for declared in fields(group):
        yield declared.name, declared.metadata["setting"]


def read_group(group: type[T], environ: Mapping[str, str]) -> T:
    """Read a group of settings. Raises ConfigError for the first that is wrong."""
    return group(**{name: setting.read(environ) for name, setting in settings_of(group)})
