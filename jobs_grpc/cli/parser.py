"""The parser of arguments: suggestions for typos, and help with examples."""

import argparse
import difflib
import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TypeAlias

from jobs_grpc.cli.errors import UsageError

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

# Groups of options that commands share. Help shows them after the options of the command.
OUTPUT, CALLER, SECURITY = "output", "server and caller", "tokens and TLS"
_SHARED_GROUPS = (OUTPUT, CALLER, SECURITY)


# Options by the names that users of other tools try.
_OTHER_NAMES = {"--selector": "--where", "-l": "--where"}


class Parser(argparse.ArgumentParser):
    """A parser that raises its errors as exceptions, and rejects abbreviated options.

    Its help ends with `examples`.
    """

    def __init__(self, *, examples: Sequence[str] = (), **kwargs: Any) -> None:
        self.examples = examples
        # A prefix that is unique today may become ambiguous.
        super().__init__(**kwargs | {"allow_abbrev": False})

    def parse_known_args(  # type: ignore[override]  # the parser of a command returns no rest
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self._subparsers and args and args[0].startswith("-"):
            self._check_option_before_command(args)
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            # Only the name is printed: the value can be a token.
            name = rest[0].partition("=")[0]
            before = args[args.index(rest[0]) - 1].partition("=")[0] if rest[0] != args[0] else ""
            if before.startswith("-") and not name.startswith("-"):
                self.error(f"unrecognized argument after {before}")
            self.error(f"unrecognized argument: {name}{self._suggested_option(name)}")
        return parsed, rest

    def _check_option_before_command(self, args: Sequence[str]) -> None:
        name = args[0].partition("=")[0]
        if name in self._option_string_actions:
            return
        assert self._subparsers  # noqa: S101 - for mypy
        commands = dict(self._subparsers._group_actions[0].choices or {})
        command = next((arg for arg in args if arg in commands), "COMMAND")
        hint = self._suggested_option(name)
        if (
            not hint
            and command in commands
            and name not in commands[command]._option_string_actions
        ):
            hint = f"; `{self.prog} {command} --help` lists the options"
        elif not hint:
            hint = f"; options follow the command: {self.prog} {command} {name} …"
        self.error(f"unrecognized argument: {name}{hint}")

    def _suggested_option(self, name: str) -> str:
        if not name.startswith("-"):
            return ""
        known = self._option_string_actions
        if (other := _OTHER_NAMES.get(name)) in known:
            return f" (did you mean {other}?)"
        return _suggestion(name, known)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        hint = _suggestion(str(value), action.choices)
        if value == "help" and isinstance(action, argparse._SubParsersAction):
            hint = f"; use `{self.prog} --help` or `{self.prog} COMMAND --help`"
        elif not hint and isinstance(action, argparse._SubParsersAction):
            hint = f"; `{self.prog} --help` lists the commands"
        elif not hint:
            hint = f" (choose from {', '.join(action.choices)})"
        raise argparse.ArgumentError(action, f"invalid choice: {value}{hint}")

    def error(self, message: str) -> NoReturn:
        # argparse adds the value, which can be a token.
        message = re.sub(
            r"ignored explicit argument .*", "takes no value", message, flags=re.DOTALL
        )
        raise UsageError(message, self.prog, self.format_usage())

    def format_help(self) -> str:
        self._action_groups.sort(key=lambda group: group.title in _SHARED_GROUPS)
        text = super().format_help()
        if self.examples:
            lines = "\n".join(self.examples)
            text += f"\nexamples:\n{textwrap.indent(lines, '  ')}\n"
        return text


def _suggestion(text: str, known: Iterable[str]) -> str:
    """Return a suggestion of the most similar known word; empty if there is none."""
    by_lower = {word.lower(): word for word in known}
    prefixed = [word for word in by_lower if word.startswith(text.lower())]
    similar = prefixed or _similar_words(text.lower(), by_lower)
    return f" (did you mean {by_lower[similar[0]]}?)" if similar else ""


def _similar_words(text: str, words: Iterable[str]) -> list[str]:
    """Return the similar words, the most similar first; of equal ones, that with the same start."""

    def similarity(word: str) -> tuple[float, int]:
        ratio = difflib.SequenceMatcher(None, word, text).ratio()
        return ratio, len(os.path.commonprefix((word, text)))  # noqa: RUF071 - not paths

    return sorted(difflib.get_close_matches(text, words), key=similarity, reverse=True)
