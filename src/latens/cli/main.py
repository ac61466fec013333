"""The command: its verbs, parsing, errors and exit statuses.

A verb is one line in VERBS and one function of a module. Its module is imported only when the verb is used, and
that module imports torch only inside the function, so help is instant.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import io
import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from inspect import BoundArguments
from typing import Any, NamedTuple

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.exceptions import CycloptsError, UnknownCommandError, UnknownOptionError, UnusedCliTokensError

from latens import __version__
from latens.cli.common import NAME, ImageOptions, OutputOptions, ReadOptions, messages, say
from latens.cli.engines import EngineOptions
from latens.cli.waiting import set_waiting
from latens.cli.whole_numbers import has_fraction, refuse_fractions
from latens.errors import InputError, LatensError, LimitExceeded, StorageFull, UsageError, one_line

USAGE, INTERNAL_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 70, 130, 141
SYSTEM_ERRORS = {  # errors of the operating system that are not internal errors, and their exit statuses
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM), StorageFull.exit_status
    ),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG), InputError.exit_status),
}
SPARE = "free some space in /tmp, or set TMPDIR to another folder"
MAX_LINES = 3  # of one error
MIN_COLUMNS = 20  # smallest terminal width for which help can be laid out


class Verb(NamedTuple):
    name: str  # one word, or a group of GROUPS and a word
    target: str  # "module:function", imported when the verb is used
    help: str


GROUPS = {"video": "Compress clips with a sharp region of interest."}  # first words of verbs of two words

VERBS = (
    Verb("demo", "latens.cli.demo:demo", "Write an HTML report of all systems on bundled images."),
    Verb("app", "latens.cli.app:app", "Open a local page for all systems."),
    Verb("compress", "latens.cli.compress:compress", "Compress photographs into small .ltn files."),
    Verb("decompress", "latens.cli.decompress:decompress", "Decompress .ltn files into images."),
    Verb("video compress", "latens.cli.video:compress", "Compress clips for any player, with a sharp region."),
    Verb("video decompress", "latens.cli.video_decompress:decompress", "Decompress .ltv files of the neural codec into clips."),
    Verb(
        "inspect", "latens.cli.inspect:inspect", "Show the contents of a .ltn or .ltv file: model, sizes, bits of every part."
    ),
    Verb("segment", "latens.cli.segment:segment", "Segment overlapping cells, including their hidden parts."),
    Verb("convert", "latens.cli.convert:convert", "Convert annotations between labelme, COCO, KINS, COCOA and label maps."),
    Verb("dehaze", "latens.cli.dehaze:dehaze", "Remove haze from images and clips."),
    Verb("haze", "latens.cli.haze:haze", "Add haze of a chosen visibility to images."),
    Verb("parts", "latens.cli.parts:parts", "Find parts that repeat in your images, without labels."),
    Verb(
        "density", "latens.cli.density:density", "Score how likely and unusual images are; draw samples; densities of tables."
    ),
    Verb("density pack", "latens.cli.density_pack:pack", "Pack a folder of images into one smaller file, without loss."),
    Verb("density unpack", "latens.cli.density_pack:unpack", "Unpack an archive into its files."),
    Verb("grade", "latens.cli.grade:grade", "Grade seedling trays: emerged plants, plants that will succeed, lots."),
    Verb("jobs", "latens.cli.jobs:jobs", "Show how far a job of --engine is; verify its results; retry what failed."),
    Verb("serve", "latens.cli.serve:serve", "Answer HTTP requests: an image in, a result out."),
    Verb("train", "latens.cli.train:train", "Train a model on your own images; can be stopped and resumed."),
    Verb("evaluate", "latens.cli.evaluate:evaluate", "Evaluate a model on held-out images and compare it with its baselines."),
    Verb("recipes", "latens.cli.recipes:recipes", "List the training recipes."),
    Verb("reproduce", "latens.cli.reproduce:reproduce", "Reproduce a table or figure of a paper and compare the numbers."),
    Verb("bench", "latens.cli.bench:bench", "Measure speed and memory on this machine."),
    Verb("int8", "latens.cli.int8:int8", "Store the large weights of a model in eight bits."),
    Verb("export", "latens.cli.export:export", "Write the networks of a model as ONNX graphs."),
    Verb("import", "latens.cli.import_model:import_model", "Convert a CompressAI checkpoint to a model folder."),
    Verb("models", "latens.cli.models:models", "List the bundled models."),
    Verb("doctor", "latens.cli.doctor:doctor", "Check this installation, line by line."),
)


def build_app(asked: str = "") -> App:
    """The command with all verbs by name; none of their modules is imported.

    The help of the verb `asked` (one or two words) is its docstring in place of its line in the list.
    """
    app = App(
        name="latens",
        help="Vision models with learned latent codes, for your own images.",
        help_epilogue="`latens VERB --help` describes a verb. Results go to stdout, messages to stderr.",
        help_format="plaintext",
        default_parameter=Parameter(negative=()),  # otherwise cyclopts adds --no-force and --empty-set
        version=__version__,
        version_flags=["--version"],
    )
    app.register_install_completion_command(help="Install completion of verbs and options in this shell (bash, zsh, fish).")
    groups: dict[str, App] = {}
    parents = {verb.name.rpartition(" ")[0] for verb in VERBS}
    for order, verb in enumerate(VERBS):
        group, _, name = verb.name.rpartition(" ")
        if group and group not in groups:
            groups[group] = App(name=group, help=GROUPS[group], help_epilogue="", sort_key=order)
            app.command(groups[group])
        line = unwrapped(_function(verb).__doc__) if verb.name == asked else verb.help
        if verb.name in parents:  # a verb that also begins verbs of two words
            groups[verb.name] = App(name=verb.name, help=line, help_epilogue="", sort_key=order)
            if verb.name == asked:
                groups[verb.name].default(_function(verb))
            app.command(groups[verb.name])
            continue
        (groups[group] if group else app).command(verb.target, name=name, help=line, help_epilogue="", sort_key=order)
    return app


def _function(verb: Verb) -> Callable[..., Any]:
    module, _, name = verb.target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def unwrapped(docstring: str | None) -> str:
    """A docstring as help: paragraphs are joined, so that they fill the terminal; blocks of commands are indented."""
    blocks = inspect.cleandoc(docstring or "").split("\n\n")
    commands = [block.startswith((" ", "latens ")) for block in blocks]
    return "\n\n".join(
        textwrap.indent(textwrap.dedent(block), "    ") if keep else " ".join(block.splitlines())
        for block, keep in zip(blocks, commands, strict=True)
    )


def asked_verb(tokens: Sequence[str]) -> str:
    """The name of the verb that a command line begins with."""
    two = " ".join(tokens[:2])
    return two if (tokens and tokens[0] in GROUPS) or two in {verb.name for verb in VERBS} else " ".join(tokens[:1])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; the script `latens` and `python -m latens` call this function."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    set_waiting()
    open_streams()
    if "" in tokens:  # Path("") is the current folder: `latens compress "$UNSET"` would take all of it
        say(f"{NAME}an argument is empty; is a variable of the shell unset?\nname the files, or . for the current folder")
        return USAGE
    tokens = with_streams(tokens)
    try:
        command, bound = _parsed(tokens)
    except CycloptsError as error:
        return _usage_error(error)
    return run(or_job(command, bound, tokens), bound)


def parsed(tokens: Sequence[str]) -> tuple[Callable[..., Any], BoundArguments]:
    """The function of a verb and its arguments, of the words of a command line. Raises UsageError."""
    try:
        return _parsed(tokens)
    except CycloptsError as error:
        what, hint = _usage(error)
        raise UsageError(what, hint=hint or None) from error


def _parsed(tokens: Sequence[str]) -> tuple[Callable[..., Any], BoundArguments]:
    verb = asked_verb(tokens)
    app = build_app(verb)
    command, bound, _ = app.parse_args(tokens, print_error=False, exit_on_error=False)
    if any(map(has_fraction, tokens)):
        refuse_fractions(verb, tokens, _arguments(app, verb))
    return command, bound


def _arguments(app: App, verb: str) -> ArgumentCollection:
    for word in verb.split():
        app = app[word]
    return app.assemble_argument_collection()


def or_job(command: Callable[..., Any], bound: BoundArguments, tokens: Sequence[str]) -> Callable[..., Any]:
    """The command of a verb, or with --engine the job of it."""
    engine = bound.arguments.get("engine", EngineOptions())
    if "engine" not in bound.signature.parameters or command.__name__ == "jobs":
        return command

    def checked(*args: Any, **kwargs: Any) -> Any:
        from latens.cli import as_job

        as_job.check(bound, engine)
        if engine.engine is None:
            return command(*args, **kwargs)
        return as_job.run(asked_verb(tokens), tokens, bound, engine)

    return checked


def with_streams(tokens: Sequence[str]) -> list[str]:
    """The words of a command line with standard streams as paths: the parser takes a lone "-" for an option.

    Path("./-") equals Path("-"), which the verbs compare with.
    """
    return ["./-" if token in ("-", "/dev/stdout", "/dev/stdin") else token for token in tokens]


def run(command: Callable[..., Any], bound: BoundArguments) -> int:
    """Call a verb; convert exceptions to lines on stderr and an exit status."""
    debug = any(value.debug for value in bound.arguments.values() if isinstance(value, OutputOptions))
    if not debug:
        warnings.simplefilter("ignore")  # of libraries, for programmers
    try:
        return call(command, bound)
    except KeyboardInterrupt:
        return _fail("stopped; finished results are kept", INTERRUPTED, debug)
    except LatensError as error:
        return _fail(str(error), error.exit_status, debug)
    except BrokenPipeError:  # the reader of stdout has exited, as in `latens models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if "temporary directory" in str(error):  # tempfile found none that can be written
            return _fail(f"no folder for temporary files can be written\n{SPARE}", StorageFull.exit_status, debug)
        status = SYSTEM_ERRORS.get(error.errno or 0)
        if status is None:
            return _internal(error, debug)
        if error.filename is not None:
            hint = "check the disk, its free space and your permissions"
            return _fail(f"{one_line(os.fsdecode(error.filename))}: {error.strerror}\n{hint}", status, debug)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            if stdout_works():
                what = f"a temporary file or standard output cannot be written: {error.strerror}"
                return _fail(f"{what}\n{SPARE}; or check the target of standard output", status, debug)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter fails again at its end
            return _fail(f"the results cannot be written: {error.strerror}\ncheck the target of stdout", status, debug)
        return _fail(
            f"operating system error: {error.strerror}\nclose other programs, or raise the limit (ulimit)", status, debug
        )
    except MemoryError:
        hint = "close other programs, or make the input smaller"
        return _fail(f"this machine has too little memory for this\n{hint}", LimitExceeded.exit_status, debug)
    except Exception as error:
        return _internal(error, debug)


def call(command: Callable[..., Any], bound: BoundArguments) -> int:
    """Call a verb with its messages on stderr and its limits; returns the exit status. Raises what the verb raises."""
    given = [value for value in bound.arguments.values() if isinstance(value, OutputOptions)]
    with messages(given[0].format if given else "human"), reading(given):
        status = command(*bound.args, **bound.kwargs)
    sys.stdout.flush()
    return status if isinstance(status, int) else 0


def stdout_works() -> bool:
    """False if what was printed cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        return False
    return True


@contextmanager
def reading(options: Sequence[OutputOptions]) -> Iterator[None]:
    """Context with the limits of images of --limit and the channel of --channel. Raises UsageError."""
    texts = [text for value in options if isinstance(value, ReadOptions) for text in value.limit]
    channel = next((value.channel for value in options if isinstance(value, ImageOptions) and value.channel is not None), None)
    with ExitStack() as stack:
        if texts:
            from latens.data.limits import parse_limits, raised_limits

            stack.enter_context(raised_limits(parse_limits(texts)))
        if channel is not None:
            from latens.data.channels import chosen_channel

            stack.enter_context(chosen_channel(channel))
        yield


def open_streams() -> None:
    """Replace standard streams that the caller closed; ignore a terminal width that is too small for help.

    Characters that the encoding of stdout lacks are escaped.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if not os.environ.get("COLUMNS", "80").isdecimal() or int(os.environ.get("COLUMNS", "80")) < MIN_COLUMNS:
        del os.environ["COLUMNS"]


def _internal(error: Exception, debug: bool) -> int:
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return _fail(f"internal error (please report): {what} (--debug shows where)", INTERNAL_ERROR, debug)


def _fail(message: str, status: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    lines = [line for line in message.splitlines() if line.strip()][:MAX_LINES]
    say(NAME + "\n".join(lines))
    return status


def _usage_error(error: CycloptsError) -> int:
    verb = "" if isinstance(error, UnknownCommandError) else " ".join(error.command_chain or ())
    what, hint = _usage(error)
    see = f"see `latens {verb + ' ' if verb else ''}--help`"
    say(NAME + "\n".join(line for line in (what, hint, see) if line))
    return USAGE


def _usage(error: CycloptsError) -> tuple[str, str]:
    """What is wrong with a command line, and what to write instead ("" if unknown)."""
    from latens.cli.unknown import hint_for, hint_for_early, hint_for_unused

    tokens, unused, verb = error.root_input_tokens or [], error.unused_tokens or [], " ".join(error.command_chain or ())
    if isinstance(error, UnusedCliTokensError) and unused:
        return f"Unexpected argument: {unused[0]}.", hint_for_unused(unused[0], tokens, verb, _parses)
    if isinstance(error, UnknownCommandError) and unused and unused[0].startswith("-"):
        hint = hint_for_early(tokens, [verb.name for verb in reversed(VERBS)], _parses)
        return (
            f"{unused[0]} is an option, and the verb comes first.",
            hint or "begin with a verb, as in `latens compress photo.jpg`",
        )
    if not isinstance(error, UnknownOptionError):
        return " ".join(str(error).split()), ""
    word = error.token.keyword or error.token.value
    return f"Unknown option: {word}.", hint_for(word, option_names(error.argument_collection), lambda: _options_but(verb))


def _parses(tokens: Sequence[str]) -> bool:
    try:
        _parsed(tokens)
    except CycloptsError:
        return False
    return True


def option_names(arguments: ArgumentCollection) -> set[str]:
    """The options of a verb, with their dashes."""
    return {name for argument in arguments if argument.parse for name in argument.names if name.startswith("-")}


def _options_but(verb: str) -> Iterator[tuple[str, set[str]]]:
    """All verbs but this one, with their options."""
    for other in VERBS:
        if other.name != verb:
            yield other.name, option_names(_arguments(build_app(other.name), other.name))
