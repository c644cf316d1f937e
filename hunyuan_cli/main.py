"""The start of the `hunyuan` program, and the one place where an error becomes a sentence and an exit status.

    0 done   1 a mistake to put right (one sentence)   2 wrong usage   3 a part failed   130 interrupted

Nothing is imported at the top that takes time: `main` has to be there to meet a Ctrl-C. hunyuan_cli/app.py has the commands.
"""

import os
import sys
from collections.abc import Callable


def main() -> None:
    """Run the command line; exit with its status."""
    import signal

    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # by nohup, or a shell's &
    interrupted = False

    def leave(number: int, frame: object) -> None:
        os._exit(130)  # modules are being loaded, which may turn an exception into another: there is nothing to save

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    def on_interrupt(handler: Callable[[int, object], None]) -> None:
        if not ignored:
            signal.signal(signal.SIGINT, handler)

    on_interrupt(leave)
    # A stream that the caller has closed (`>&-`) is None: what would go there is not wanted.
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show "±" is no reason to fail
    status = run(sys.argv[1:], begin=lambda: on_interrupt(interrupt), interrupted=lambda: interrupted)
    on_interrupt(leave)
    if status and "RANK" in os.environ:  # the threads of its groups would abort a process that leaves the others
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def run(
    arguments: list[str], *, begin: Callable[[], None] = lambda: None, interrupted: Callable[[], bool] = lambda: False
) -> int:
    """The exit status of one command line; every error ends here.

    `begin` is called before the command is; `interrupted` says whether an error may be what became of a Ctrl-C.
    """
    import typer

    from hunyuan_cli import app, failures
    from hunyuan_cli.console import stderr
    from hunyuan_cli.sentences import sentence

    state = {"debug": False, "begin": begin, "arguments": arguments}
    try:
        status = app.build(arguments)(arguments, prog_name="hunyuan", standalone_mode=False, obj=state)
        sys.stdout.flush()  # here, so that a closed pipe is met inside this try
        return status if isinstance(status, int) else 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except app.CommandLineError as error:
        stderr(_usage_sentence(error))
        return getattr(error, "exit_code", 2)
    except Exception as error:
        if interrupted():
            return 130
        if type(error).__name__ == "PeerError" and not state["debug"]:
            return 1  # another process of the run says why
        if state["debug"]:
            import traceback

            traceback.print_exc()
        elif failures.has_launcher():
            failures.write(failures.before_meeting(error, arguments))
        else:
            stderr(f"error: {sentence(error, arguments)}")
        return 1


def _usage_sentence(error: Exception) -> str:
    from hunyuan_cli.sentences import one_line

    message = one_line(getattr(error, "format_message", error.__str__)()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "hunyuan"
    return f"error: {message} (see {command} --help)" if message else ""  # a bare `hunyuan` has shown its help


if __name__ == "__main__":
    main()
