"""The command: its verbs, parsing, errors and exit statuses.

A verb is one line in VERBS and one function of a module. Its module is imported only when the verb is used, and
that module imports torch only inside the function, so help stays instant.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from inspect import BoundArguments
from typing import Any, NamedTuple

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError, UnknownCommandError

from latens import __version__
from latens.cli.common import OutputOptions, messages
from latens.errors import InputError, LatensError, StorageFull

USAGE, BUG, INTERRUPTED, BROKEN_PIPE = 2, 70, 130, 141
SYSTEM_ERRORS = {  # errors of the operating system that are no bugs of latens, and their exit statuses
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM), StorageFull.exit_status),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG), InputError.exit_status),
}
MAX_LINES = 3  # of one error
MIN_COLUMNS = 20  # of a terminal that help can be laid out for


class Verb(NamedTuple):
    name: str  # one word, or a group of GROUPS and a word
    target: str  # "module:function", imported when the verb is used
    help: str


GROUPS = {"video": "Clips: a region of interest kept sharp."}  # first words of verbs of two words

VERBS = (
    Verb("demo", "latens.cli.demo:demo", "See it work: an HTML report made from bundled images."),
    Verb("compress", "latens.cli.compress:compress", "Photographs into small .ltn files."),
    Verb("decompress", "latens.cli.decompress:decompress", ".ltn files back into images."),
    Verb("video compress", "latens.cli.video:compress", "Clips into small clips that any player shows, a region kept sharp."),
    Verb("video decompress", "latens.cli.video:decompress", ".ltv files of the neural codec back into clips."),
    Verb("inspect", "latens.cli.inspect:inspect", "What a .ltn or .ltv file holds: model, sizes, bits of every part."),
    Verb("segment", "latens.cli.segment:segment", "Whole outlines of overlapping cells, hidden parts included."),
    Verb(
        "convert", "latens.cli.convert:convert", "Annotations from labelme, COCO, KINS, COCOA or label maps into another form."
    ),
    Verb("dehaze", "latens.cli.dehaze:dehaze", "Images and clips without their haze."),
    Verb("haze", "latens.cli.haze:haze", "Images in haze of a chosen visibility."),
    Verb("parts", "latens.cli.parts:parts", "Parts that repeat in your images, found without labels."),
    Verb("density", "latens.cli.density:density", "How likely and how unusual images are; samples; densities of tables."),
    Verb("density pack", "latens.cli.density_pack:pack", "A folder of images into one smaller file, without loss."),
    Verb("density unpack", "latens.cli.density_pack:unpack", "A packed folder back into its files."),
    Verb("grade", "latens.cli.grade:grade", "Seedling trays: plants that are up, plants that will succeed, lots."),
    Verb("train", "latens.cli.train:train", "Train a model on your own images; can be stopped and resumed."),
    Verb("evaluate", "latens.cli.evaluate:evaluate", "Measure a model on held-out images, compared with its baselines."),
    Verb("recipes", "latens.cli.recipes:recipes", "Training recipes, a line each."),
    Verb("reproduce", "latens.cli.reproduce:reproduce", "A table or figure of the papers: their numbers beside ours."),
    Verb("bench", "latens.cli.bench:bench", "Speed and memory on this machine."),
    Verb("int8", "latens.cli.int8:int8", "Store the large weights of a model in eight bits."),
    Verb("import", "latens.cli.import_model:import_model", "A CompressAI checkpoint into a model folder."),
    Verb("models", "latens.cli.models:models", "The bundled models."),
    Verb("doctor", "latens.cli.doctor:doctor", "Check this installation, line by line."),
)


def build_app(asked: str = "") -> App:
    """The command with all verbs by name; none of their modules is imported.

    The verb that is `asked` for (two words where it has two) shows its own text as help instead of its line in the list.
    """
    app = App(
        name="latens",
        help="Vision models with learned latent codes, for your own images.",
        help_epilogue="`latens VERB --help` says more. Results go to stdout, messages to stderr.",
        help_format="plaintext",
        default_parameter=Parameter(negative=()),  # no --no-force, no --empty-set
        version=__version__,
        version_flags=["--version"],
    )
    groups: dict[str, App] = {}
    parents = {verb.name.rpartition(" ")[0] for verb in VERBS}
    for order, verb in enumerate(VERBS):
        group, _, name = verb.name.rpartition(" ")
        if group and group not in groups:
            groups[group] = App(name=group, help=GROUPS[group], help_epilogue="", sort_key=order)
            app.command(groups[group])
        line = None if verb.name == asked else verb.help
        if verb.name in parents:  # a verb that also begins verbs of two words
            groups[verb.name] = App(name=verb.name, help=line, help_epilogue="", sort_key=order)
            if verb.name == asked:
                module, _, function = verb.target.partition(":")
                groups[verb.name].default(getattr(importlib.import_module(module), function))
            app.command(groups[verb.name])
            continue
        (groups[group] if group else app).command(verb.target, name=name, help=line, help_epilogue="", sort_key=order)
    return app


def asked_verb(tokens: Sequence[str]) -> str:
    """The name of the verb that a command line begins with."""
    two = " ".join(tokens[:2])
    return two if (tokens and tokens[0] in GROUPS) or two in {verb.name for verb in VERBS} else " ".join(tokens[:1])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status; the script `latens` and `python -m latens` call this."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    open_streams()
    if "" in tokens:  # Path("") is the current folder: `latens compress "$UNSET"` would take all of it
        print("latens: an argument is empty; is a variable of the shell unset?", file=sys.stderr)
        print("name the files, or . for the current folder", file=sys.stderr)
        return USAGE
    # The parser takes a lone "-" for an option. Path("./-") equals Path("-"), which is what the verbs compare with.
    tokens = ["./-" if token == "-" else token for token in tokens]
    try:
        command, bound, _ = build_app(asked_verb(tokens)).parse_args(tokens, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        return _usage_error(error)
    return run(command, bound)


def run(command: Callable[..., Any], bound: BoundArguments) -> int:
    """Call a verb; convert exceptions to lines on stderr and an exit status."""
    debug = any(value.debug for value in bound.arguments.values() if isinstance(value, OutputOptions))
    if not debug:
        warnings.simplefilter("ignore")  # what libraries say to programmers
    spoken = [value for value in bound.arguments.values() if isinstance(value, OutputOptions)]
    try:
        with messages(spoken[0].format if spoken else "human"):
            status = command(*bound.args, **bound.kwargs)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        return _fail("stopped; what is finished is kept", INTERRUPTED, debug)
    except LatensError as error:
        return _fail(str(error), error.exit_status, debug)
    except BrokenPipeError:  # the reader of our stdout has gone, as in `latens models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        status = SYSTEM_ERRORS.get(error.errno or 0)
        if status is None:
            return _internal(error, debug)
        if error.filename is not None:
            hint = "check the disk, its free space and your rights on it"
            return _fail(f"{os.fsdecode(error.filename)}: {error.strerror}\n{hint}", status, debug)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter fails again at its end
            return _fail(f"the results cannot be written: {error.strerror}\ncheck where stdout leads", status, debug)
        return _fail(f"the system refuses: {error.strerror}\nclose other programs, or allow more (ulimit)", status, debug)
    except Exception as error:
        return _internal(error, debug)


def open_streams() -> None:
    """Replaces standard streams that the caller closed, and drops a terminal width that help cannot be laid out for."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if not os.environ.get("COLUMNS", "80").isdecimal() or int(os.environ.get("COLUMNS", "80")) < MIN_COLUMNS:
        del os.environ["COLUMNS"]


def _internal(error: Exception, debug: bool) -> int:
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return _fail(f"internal error (please report): {what} (--debug shows where)", BUG, debug)


def _fail(message: str, status: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    lines = [line for line in message.splitlines() if line.strip()][:MAX_LINES]
    print("latens: " + "\n".join(lines), file=sys.stderr)
    return status


def _usage_error(error: CycloptsError) -> int:
    verb = "" if isinstance(error, UnknownCommandError) else " ".join(error.command_chain or ())
    print(f"latens: {' '.join(str(error).split())}", file=sys.stderr)
    print(f"see `latens {verb + ' ' if verb else ''}--help`", file=sys.stderr)
    return USAGE
