"""Exceptions: mistakes a user can mend, and ways a run ends."""


class InputError(ValueError):
    """A wrong input: its message names the place, what was found, what was expected, what to do.

    The command line prints the message without a traceback and exits with code 2. Anything else
    that is raised is a defect of the program and keeps its traceback.
    """


class StorageError(InputError):
    """The disk is full or a folder can't be written; trying the rest would fail in the same way."""


class DivergedError(RuntimeError):
    """The loss of a training step was not a finite number; names the stage and the step."""


class Terminated(KeyboardInterrupt):
    """Stopped by SIGTERM, as a job scheduler does; everything stored is kept."""


class HungUp(Terminated):
    """Stopped by SIGHUP, because the terminal was closed; everything stored is kept."""
