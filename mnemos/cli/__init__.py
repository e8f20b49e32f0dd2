"""The command `mnemos`: one word per command, each in the file of its name with a function `command`."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from mnemos.errors import MnemosError

COMMANDS = {
    "train": "train a language model on a text, or go on with an interrupted run",
    "generate": "let a trained model continue a text, and keep what its memory holds",
    "evaluate": "measure a trained model: bits per byte, beyond the training length, along a long stream",
    "harness": "score a trained model by lm-evaluation-harness, on its tasks or your own",
    "compare": "train systems on tasks at equal size, and show what each remembers",
    "tasks": "list the tasks that memories are compared on",
    "claims": "check what papers say, and read what was found",
    "capacity": "measure how many associations memories hold before they mix them up",
    "zoo": "list the published systems",
    "explain": "say how a system would run, and what it would cost",
    "demo": "train a Titans model and a transformer of equal size, measure both, and show it on a page",
}
"""Every command and what it does. A command NAME is the function `command` in mnemos/cli/NAME.py; the types
and the docstring of its parameters make its options and its help, and what it returns, an int or None, is the
exit code."""

EXAMPLES = """examples:
  mnemos train --system gated_deltanet --data stdlib --out runs/first --minutes 10
  mnemos generate runs/first --prompt "def fibonacci(" --length 300

`mnemos COMMAND --help` explains a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 something the user can mend, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"mnemos {_version()}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Perhaps you meant `mnemos {near[0]}`." if near else ""
        print(f"mnemos: there is no command {name!r}.{hint} Commands: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    return _run(name, words[1:])


def _run(name: str, arguments: list[str]) -> int:
    import tyro

    command = import_module(f"mnemos.cli.{name}").command
    look = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    try:
        code = tyro.cli(command, prog=f"mnemos {name}", args=arguments, config=look)
    except MnemosError as error:
        print(f"mnemos {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mnemos {name}: interrupted.", file=sys.stderr)
        return 130
    return 0 if code is None else code


def _help() -> str:
    longest = max(map(len, COMMANDS))
    lines = [f"  {name:<{longest}}  {summary}" for name, summary in COMMANDS.items()]
    about = "mnemos: every sequence model is a memory."
    usage = "usage: mnemos COMMAND [options] | mnemos --version"
    return "\n".join([about, "", usage, "", "commands:", *lines, "", EXAMPLES])


def _version() -> str:
    try:
        return version("mnemos")
    except PackageNotFoundError:
        return "(not installed)"
