"""The command line: `ms-vit VERB ...` and `python -m ms_vit.VERB ...`.

A verb's options come from its function's signature and docstring. Here they are parsed, its result is printed, and
whatever a user can mend is told in one line.
"""

import dataclasses
import difflib
import importlib
import inspect
import json
import re
import signal
import sys
import threading
import traceback
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ms_vit.errors import UsageError, UserError, one_line

VERBS = {
    "download": "fetch a data set, verify it and lay it out as train/ val/ infer/",
    "check": "read every image of a folder and report what is wrong with it",
    "pack": "pack a folder of images into a few large files, to train from these",
    "train": "train a ViT by a recipe; the same command again resumes",
    "eval": "score a checkpoint on every image of a split",
    "infer": "name what is on pictures, and draw it on them",
    "serve": "name pictures by a web page, and for other programs",
    "report": "show a run on one page, or several side by side",
    "export": "write a network for another library, run that and compare",
    "doctor": "look at this machine, and say what stands between it and training",
}
GOES_ON = ("download", "pack", "train")     # where an interrupted verb stopped, it goes on
USAGE = "usage: ms-vit VERB ...\n\n" + "\n".join(f"  {verb:10}{does}" for verb, does in VERBS.items()) + """

ms-vit VERB --help tells a verb's options. Each verb also takes
  --json    print the result as one JSON object on the last line of stdout
  --debug   show the traceback of an error"""


def main(argv: list[str] | None = None) -> int:
    """`ms-vit`: hands over to the verb. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if argv[0] not in VERBS:
        return fail(f'there is no verb "{argv[0]}"; there are {", ".join(VERBS)}', 2)
    if problem := wrong_environment():
        return fail(problem, 2)
    return importlib.import_module(f"ms_vit.{argv[0]}").main(argv[1:])


def wrong_environment() -> str | None:
    """One line about a Python or NumPy that MindSpore can't run on, before it fails in its own words."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        return f"Python 3.10, 3.11 or 3.12 is needed, this is {sys.version.split()[0]}; make a new environment with one"
    from importlib.metadata import version

    if int(version("numpy").split(".")[0]) >= 2:
        return f"MindSpore needs NumPy below 2, found {version('numpy')}; run: pip install 'numpy<2'"
    return None


def run(function: Callable[..., Any], argv: list[str] | None = None, *, prog: str | None = None,
        arguments: Callable[[Any], None] | None = None,
        call: Callable[[dict[str, Any]], Any] | None = None) -> int:
    """Runs a verb on its command line; returns the exit code. `prog` is how it is called, if not `ms-vit VERB`.

    `arguments` and `call` are for a verb whose options are not simply its parameters: the first adds them to the
    parser, the second makes the call from those, and only those, that were given.
    """
    from jsonargparse import ArgumentError

    from ms_vit import schema

    parser = parser_of(function, prog=prog, arguments=arguments)
    argv = sys.argv[1:] if argv is None else argv
    debug = "--debug" in argv
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
    try:
        given = parser.parse_args(argv, defaults=not call).as_dict()
        as_json = given.pop("json", False)
        given.pop("debug", None)
        result = call(given) if call else function(**given)
    except ArgumentError as error:
        return fail(f"{schema.explain(error)}; {remedy(error, parser)}", 2)
    except UserError as error:
        return fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt as interrupt:
        again = "; the same command again goes on" if function.__name__ in GOES_ON else ""
        return fail(f"interrupted{again}", 128 + (interrupt.args or (signal.SIGINT,))[0], debug)
    except OSError as error:
        return fail(explain_os_error(error), 1, debug)
    if as_json:
        print(json.dumps(dataclasses.asdict(result), default=str))
    return getattr(result, "exit_code", 0)


def parser_of(function: Callable[..., Any], *, prog: str | None = None,
              arguments: Callable[[Any], None] | None = None) -> Any:
    """What parses a verb's command line, as `run` does."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=prog or f"ms-vit {function.__name__}", description=summary(function),
                            exit_on_error=False, allow_abbrev=False)
    if arguments:
        arguments(parser)
    else:
        add_parameters(parser, function)
    parser.add_argument("--json", action="store_true", help="print the result as JSON on the last line of stdout")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_parameters(parser: Any, function: Callable[..., Any]) -> None:
    """A verb's options from its signature: what has no default and isn't keyword-only goes by position."""
    from docstring_parser import parse

    told = {entry.arg_name: entry.description for entry in parse(function.__doc__ or "").params}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind: Any = parameter.annotation
        options: dict[str, Any] = {"help": told.get(name)}
        required = parameter.default is parameter.empty
        if kind is bool:
            options |= {"action": "store_true"}
        elif typing.get_origin(kind) in (list, Sequence):       # people write a.jpg b.jpg, not a list as JSON
            options |= {"type": typing.get_args(kind)[0], "nargs": "+"}
        else:
            options |= {"type": kind}
        if required and parameter.kind is not parameter.KEYWORD_ONLY:
            parser.add_argument(name, **options)
        else:
            options |= {"required": True} if required else {"default": parameter.default}
            parser.add_argument(f"--{name.replace('_', '-')}", **options)


def terminate(number: int, frame: Any) -> None:
    """SIGTERM ends a verb as Ctrl-C does, so that nothing half-made stays. MindSpore's graphs turn Ctrl-C into it."""
    raise KeyboardInterrupt(number)


def remedy(error: Exception, parser: Any) -> str:
    """What to do about a command line that can't be parsed."""
    if unknown := re.search(r"unrecognized arguments: (--[\w.-]+)", str(error)):
        known = re.findall(r"(?<!\S)\[?(--[\w.-]+)", parser.format_usage())
        if near := difflib.get_close_matches(unknown[1], known, n=1):
            return f'did you mean "{near[0]}"?'
    return f"see {parser.prog} --help"


def at_least_one(**options: int | None) -> None:
    """Raises UsageError where one of these options of a verb is below 1."""
    for name, value in options.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")


def summary(function: Callable[..., Any]) -> str:
    """The first paragraph of a docstring."""
    return " ".join((function.__doc__ or "").split("\n\n")[0].split())


def explain_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if isinstance(error.filename, (str, Path)) else ""
    return f"{where}{(error.strerror or str(error)).lower()}"


def fail(text: str, code: int, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    print(f"ms-vit: {one_line(text)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
