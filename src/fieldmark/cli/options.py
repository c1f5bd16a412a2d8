"""Options of one command: a dataclass, YAML files and the command line (jsonargparse); errors that help."""

import argparse
import dataclasses
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from fieldmark.cli.names import UsageError, did_you_mean
from fieldmark.training.run_folder import to_plain

set_parsing_settings(docstring_parse_attribute_docstrings=True)

_CLUTTER = (  # the choices stand before the help already
    (r"type: (Literal\[.*?\]|bool), default", "default"),
    (r", default: (null)?\)$", ")"),
    (r"type: Optional\[(.*)\]\)$", r"type: \1 | null)"),
    (r" \(default: False\)$", ""),
)
_TRUTH = ("true", "false", "yes", "no", "on", "off")


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The description as it is written; of types and defaults only what one needs to know."""

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        for pattern, shorter in _CLUTTER:
            text = re.sub(pattern, shorter, text)
        return text


class Given(argparse.Namespace):
    """One attribute per option, and ``config``: the dataclass of `Options.config`, if there is one."""

    config: Any


class Options:
    """The parser of one command. Options are spelt with underscores; hyphens do as well."""

    def __init__(self, words: str, description: str) -> None:
        self.command = f"fieldmark {words}"
        self.parser = ArgumentParser(
            prog=self.command,
            usage="%(prog)s [options]",
            description=description,
            formatter_class=_Formatter,
            print_config=None,
            exit_on_error=False,
        )
        self._config: type | None = None
        self._helps: dict[str, str] = {}  # of every key of the configuration
        self._flags: list[str] = []
        self._aliases: dict[str, str] = {}
        self._ignored: frozenset[str] = frozenset()

    # ---- declaration

    def add(self, name: str, help: str, type: Any = str, default: Any = None, **more: Any) -> None:
        """An option ("--out") or a positional argument ("path")."""
        if name.startswith("-"):
            more["default"] = default
        else:
            self.parser.usage = f"{self.parser.usage} {name.upper()}"
            more["metavar"] = name.upper()
        self.parser.add_argument(name, help=help, type=type, **more)
        self._flags.append(name.lstrip("-"))

    def flag(self, name: str, help: str) -> None:
        """A switch that is off unless it is said."""
        self.parser.add_argument(name, action="store_true", help=help)
        self._flags.append(name.lstrip("-"))

    def config(self, config: type, aliases: Mapping[str, str] | None = None, ignored: Collection[str] = ()) -> None:
        """Every field of a dataclass as an option, from --config files too, and --print_config.

        Args:
            aliases: short name → option that it stands for, both without "--".
            ignored: keys that a --config file may hold without effect (it was made for another command).
        """
        self._config, self._aliases, self._ignored = config, dict(aliases or {}), frozenset(ignored)
        self.parser.add_argument(
            "--config",
            action=ActionConfigFile,
            metavar="YAML",
            help="Read options from this file; others on the line win.",
        )
        self.parser.add_argument(
            "--print_config",
            action="store_true",
            help="Print the resulting configuration as commented YAML, and stop.",
        )
        known = self.parser._option_string_actions
        before = set(known)
        self.parser.add_class_arguments(config)
        for option in [one for one in known if one not in before]:
            if type(known[option]).__name__ == "_ActionConfigLoad":  # "--data FILE" for a part: works, but clutters
                known[option].help = argparse.SUPPRESS
            else:
                self._helps[option[2:]] = known[option].help or ""
        for short, option in self._aliases.items():
            known[f"--{option}"].help = f"{self._helps[option]} Short: --{short}."

    # ---- parsing

    def parse(self, arguments: Sequence[str]) -> Given | None:
        """Parse; None if --print_config was asked for and has printed.

        Raises:
            UsageError: for what is unknown or of the wrong type, with the nearest known name.
            ValueError: for a value that the configuration refuses.
        """
        words = self._checked(arguments)
        try:
            parsed = self.parser.parse_args(words)
        except argparse.ArgumentError as error:
            raise self._error(self._clear(str(error))) from error
        parsed = self.parser.instantiate(parsed)
        given = Given(**{name: parsed[name] for name in self._flags}, config=None)
        if self._config is not None:
            given.config = self._config(**{f.name: parsed[f.name] for f in dataclasses.fields(self._config)})
            if parsed["print_config"]:
                print(self._as_yaml(given.config), end="")
                return None
        return given

    def _checked(self, arguments: Sequence[str]) -> list[str]:
        """The words with aliases resolved, switches completed and configuration files looked through."""
        known = self.parser._option_string_actions
        words: list[str] = []
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            if not word.startswith("--") or word == "--":
                words.append(word)
                continue
            name, equals, value = word[2:].partition("=")
            option = self._resolve(name)
            action = known.get(f"--{option}")
            if isinstance(action, ActionConfigFile) and (equals or rest):
                equals, value = "=", self._read_file(Path(value if equals else rest.pop(0)))
            elif (
                getattr(action, "_typehint", None) is bool
                and not equals
                and (not rest or rest[0].lower() not in _TRUTH)
            ):
                equals, value = "=", "true"  # a switch
            words.append(f"--{option}{equals}{value}")
        return words

    def _resolve(self, name: str) -> str:
        known = self.parser._option_string_actions
        for spelling in (name, name.replace("-", "_")):
            full = self._aliases.get(spelling, spelling)
            if f"--{full}" in known or any(
                self._is_dict(full.rsplit(".", n)[0]) for n in range(1, full.count(".") + 1)
            ):
                return full
        names = [one[2:] for one, a in known.items() if one.startswith("--") and a.help is not argparse.SUPPRESS]
        guess = did_you_mean(name.replace("-", "_"), [*names, *self._aliases], prefix="--")
        raise self._error(f"unknown option '--{name}'{guess}")

    def _is_dict(self, key: str) -> bool:
        action = self.parser._option_string_actions.get(f"--{key}")
        return "dict" in str(getattr(action, "_typehint", ""))

    def _read_file(self, path: Path) -> str:
        """A configuration file as YAML without ignored keys. Says what is wrong before the parser does."""
        if not path.is_file():
            raise self._error(f"there is no configuration file {path}")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise self._error(f"{path} is no YAML: {error}") from error
        if content is None:
            content = {}
        if not isinstance(content, dict):
            raise self._error(f"{path} must hold keys and values, not a {type(content).__name__}")
        tops = {key.split(".")[0] for key in self._helps}
        content = {key: value for key, value in content.items() if key in tops or key not in self._ignored}
        for key in self._unknown_keys(content):
            raise self._error(f"{path}: unknown key {key!r}{did_you_mean(key, self._helps)}")
        return yaml.safe_dump(content, sort_keys=False)

    def _unknown_keys(self, content: Mapping[Any, Any], prefix: str = "") -> list[str]:
        unknown = []
        for key, value in content.items():
            full = f"{prefix}{key}"
            if any(known.startswith(f"{full}.") for known in self._helps):
                if isinstance(value, dict):
                    unknown += self._unknown_keys(value, f"{full}.")
            elif full not in self._helps:
                unknown.append(full)
        return unknown

    def _clear(self, message: str) -> str:
        """jsonargparse's message in the words of the command line."""
        missing = re.fullmatch(r"the following arguments are required: (.*)", message)
        if missing:
            known = self.parser._option_string_actions
            names = [f"--{name}" if f"--{name}" in known else name.upper() for name in missing.group(1).split(", ")]
            return f"{' and '.join(names)} must be given"
        message = re.sub(r'Parser key "([^"]+)":?\s*', r"--\1: ", message)
        message = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", message)
        message = re.sub(r"(?:typing\.)?Literal\[(.*?)\]", r"one of \1", message)
        message = re.sub(r"argument (--[\w.]+): expected one argument", r"\1 needs a value", message)
        message = re.sub(r"Got value: ([+-]?)inf$", r"Got value: \1inf (infinity is written \1.inf)", message)
        return re.sub(r"[Ee]xpected an? ", "expected ", message)

    def _error(self, message: str) -> UsageError:
        return UsageError(f"{message}\nsee: {self.command} --help")

    # ---- --print_config

    def _as_yaml(self, config: Any, prefix: str = "", indent: str = "") -> str:
        """YAML with each field's help as a comment; can be read again by --config."""
        lines = []
        for field in dataclasses.fields(config):
            value, key = getattr(config, field.name), f"{prefix}{field.name}"
            if dataclasses.is_dataclass(value):
                lines += ["", f"{indent}{field.name}:", self._as_yaml(value, f"{key}.", f"{indent}  "), ""]
                continue
            comment = " ".join(self._helps[key].split())
            lines += textwrap.wrap(
                comment, 110 - len(indent), initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
            )
            inline = yaml.safe_dump([to_plain(value)], default_flow_style=True, allow_unicode=True, width=10**6)
            lines.append(f"{indent}{field.name}: {inline.strip()[1:-1]}")
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
        return text if prefix else f"# {self.command} --config THIS_FILE\n\n{text}\n"
