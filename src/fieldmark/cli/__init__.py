"""The command line: parses, calls one function, prints.

Commands are declared in `commands` and the modules named `…_commands`, their options are parsed in `options`.
Only the parser of the command that was asked for is built, so `fieldmark --help` loads no torch.
"""

import os
import re
import shlex
import sys
from pathlib import Path

from fieldmark import __version__
from fieldmark.cli import (  # noqa: F401  # they register their commands
    contrastive_commands,
    elva_commands,
    elva_table_commands,
    emoji_commands,
    evaluation_commands,
    experiment_commands,
    explain_commands,
    index_commands,
    multimodal_commands,
    prompt_commands,
    search_commands,
    serve_commands,
    vocabulary_commands,
)
from fieldmark.cli.commands import COMMANDS, Command
from fieldmark.cli.names import UsageError, did_you_mean

TRACEBACK = "FIELDMARK_TRACEBACK"
"""Environment variable: 1 shows where an error comes from."""

_INTRODUCTION = """usage: fieldmark COMMAND [options]

Retrieval embeddings taught by the verdicts of a multimodal language model.

"""
_FIRST_STEPS = """
First steps:
  fieldmark demo                                       everything at once, without a GPU
  fieldmark data inspect my/folders                    what is in your pictures
  fieldmark supervisor check --data my/folders --rollouts.vocabulary birds
  fieldmark train saga --data my/folders --run runs/first

`fieldmark COMMAND --help` explains a command and each of its options.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0; 2 after an error that users can mend; 130 after Ctrl-C."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    show_traceback = os.environ.get(TRACEBACK, "") not in ("", "0")
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        if show_traceback:
            raise
        print(f"\nfieldmark: interrupted. {_how_to_resume(arguments)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output (`| head`) has gone; so that Python's exit does not complain too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        if show_traceback:
            raise
        print(f"fieldmark: error: {error}", file=sys.stderr)
        return 2
    # What the library says to users. BadImage and CheckpointError are ValueErrors, NonFiniteLoss is a
    # FloatingPointError.
    except (ValueError, OSError, FloatingPointError) as error:
        if show_traceback:
            raise
        print(f"fieldmark: error: {error}", file=sys.stderr)
        if not _raised_by_fieldmark(error):
            print(f"({type(error).__name__} from a library; {TRACEBACK}=1 shows where)", file=sys.stderr)
        return 2


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["--version"]:
        print(f"fieldmark {__version__}")
        return 0
    if arguments[:1] in (["--help"], ["-h"], ["help"]):
        print(_list_of_commands())
        return 0
    command, rest = _find_command(arguments)
    if command is None:  # "fieldmark data", "fieldmark data --help"
        asked = rest[:1] in (["--help"], ["-h"])
        print(
            _list_of_commands(" ".join(arguments[: len(arguments) - len(rest)])),
            file=sys.stdout if asked else sys.stderr,
        )
        return 0 if asked else 2

    from fieldmark.cli.options import Options

    options = Options(command.words, command.description)
    run = command.declare(options)
    try:
        given = options.parse(rest)
    except SystemExit as stop:  # --help has printed
        return int(stop.code or 0)
    if given is None:  # --print_config has printed
        return 0
    run(given)
    return 0


def _find_command(arguments: list[str]) -> tuple[Command | None, list[str]]:
    """The command that the first words name, and the words after it; None for a group ("data") alone.

    Raises:
        UsageError: for an unknown command, with the nearest one.
    """
    for count in (2, 1):
        command = COMMANDS.get(" ".join(arguments[:count]))
        if command is not None and len(arguments) >= count:
            return command, arguments[count:]
    words = [a for a in arguments[:2] if not a.startswith("-")]
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if len(words) < 2 and (not words or words[0] in groups):
        return None, arguments[len(words) :]
    # The second word may be a value: then the first alone is what was mistyped.
    asked = " ".join(words)
    guess = did_you_mean(asked, COMMANDS) or did_you_mean(words[0], [*COMMANDS, *sorted(groups)])
    raise UsageError(f"there is no command {asked!r}{guess}\nsee: fieldmark --help")


def _list_of_commands(group: str = "") -> str:
    chosen = [c for name, c in COMMANDS.items() if not group or name.startswith(f"{group} ")]
    width = max(len(c.words) for c in chosen) + 2
    lines = "".join(f"  {c.words:<{width}}{c.summary}\n" for c in chosen)
    if group:
        return f"usage: fieldmark {group} COMMAND [options]\n\n{lines}"
    return f"{_INTRODUCTION}{lines}  {'--version':<{width}}which version this is\n{_FIRST_STEPS}"


def _how_to_resume(arguments: list[str]) -> str:
    try:
        command, _ = _find_command(arguments)
    except UsageError:
        return ""
    if command is None or command.resume == "never":
        return "Nothing was kept."
    if command.resume == "same command":
        return "The same command goes on where it stopped."
    kept = [a for a in arguments if a not in ("--overwrite", "--resume")]
    return f"Go on from the last checkpoint with:\n  fieldmark {shlex.join([*kept, '--resume'])}"


def _raised_by_fieldmark(error: BaseException) -> bool:
    """Whether the error was raised by a line of this package, whose messages say what to do."""
    remote = getattr(error.__cause__, "tb", None)  # of an error in a process of a pool: its traceback as text
    if isinstance(remote, str):
        files = re.findall(r'^  File "(.+)", line \d+', remote, re.MULTILINE)
        return bool(files) and _is_ours(files[-1])
    traceback = error.__traceback__
    if traceback is None:
        return True
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return _is_ours(traceback.tb_frame.f_code.co_filename)


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(Path(__file__).parents[1])
