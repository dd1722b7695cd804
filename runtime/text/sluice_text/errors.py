"""What a user can put right: one message, and the fix. Everything else is a defect and keeps its traceback."""

import sys

USER_ERROR_EXIT_CODE = 2


class TextError(Exception):
    def __init__(self, what, fix):
        super().__init__(f"{what}\n  fix: {fix}")


def run_command(main):
    """Runs `main`; a TextError becomes one message on stderr and exit code 2."""
    try:
        main()
    except TextError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR_EXIT_CODE)
    except BrokenPipeError:
        sys.exit(1)  # whoever asked has gone


def note(message):
    print(f"note: {message}", file=sys.stderr)
