"""The parser of arguments: suggestions for typos, and help with examples."""

import argparse
import difflib
import os
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from jobs_grpc.cli.errors import UsageError

# Groups of options that commands share. Help shows them after the options of the command, and of
# the connection only the description.
OUTPUT, CONNECTION = "output", "connection"
_SHARED_GROUPS = (OUTPUT, CONNECTION)

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

    def add_commands(self) -> "argparse._SubParsersAction[Parser]":
        """Return the action that adds commands. Without a command, the parser shows its help."""
        self.set_defaults(run=lambda _: self.print_help())
        return self.add_subparsers(title="commands", metavar="COMMAND", prog=self.prog)

    def group_commands(self, groups: Mapping[str, Sequence[str]]) -> None:
        """Let help show the commands in groups, by title and names."""
        assert self._subparsers  # noqa: S101 - for mypy
        (commands,) = self._subparsers._group_actions
        commands.help = argparse.SUPPRESS
        subactions = commands._get_subactions()  # type: ignore[attr-defined]
        by_name = {action.dest: action for action in subactions}
        for title, names in groups.items():
            self.add_argument_group(title)._group_actions += [by_name[name] for name in names]

    def parse_known_args(  # type: ignore[override]  # the parser of a command returns no rest
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self._subparsers and args and args[0].startswith("-"):
            self._check_option_before_command(args)
        if not self._subparsers:
            self._check_options(args)
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
        hint = f"; options follow the command: {self.prog} {command} {name} …"
        if command in commands and name not in commands[command]._option_string_actions:
            hint = f"; `{self.prog} {command} --help` lists the options"
        hint = self._suggested_option(name) or hint
        self.error(f"unrecognized argument: {name}{hint}")

    def _check_options(self, args: Sequence[str]) -> None:
        """Report the first unknown option. argparse first reports the missing ones."""
        for arg in args:
            if arg == "--":
                return
            name = arg.partition("=")[0]
            # With a space, it is a value.
            if re.fullmatch(r"--\S+", name) and name not in self._option_string_actions:
                self.error(f"unrecognized argument: {name}{self._suggested_option(name)}")

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
        if not hint and isinstance(action, argparse._SubParsersAction):
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
        hidden = {g: g._group_actions for g in self._action_groups if g.title == CONNECTION}
        for group in hidden:
            group._group_actions = []
        text = super().format_help()
        for group, actions in hidden.items():
            group._group_actions = actions
        examples = textwrap.indent("\n".join(self.examples), "  ")
        return f"{text}\nexamples:\n{examples}\n" if examples else text


def _suggestion(text: str, known: Iterable[str]) -> str:
    """Return a suggestion of the most similar known word; empty if there is none."""
    text = text.lower()
    by_lower = {word.lower(): word for word in known}

    def similarity(word: str) -> tuple[float, int]:
        ratio = difflib.SequenceMatcher(None, word, text).ratio()
        # Of equally similar words, that with the same start.
        return ratio, len(os.path.commonprefix((word, text)))  # noqa: RUF071 - not paths

    prefixed = [word for word in by_lower if word.startswith(text)][:1]
    similar = prefixed or difflib.get_close_matches(text, by_lower)
    return f" (did you mean {by_lower[max(similar, key=similarity)]}?)" if similar else ""
