"""The one kind of failure that a person at the command line is expected to mend: a sentence, without a trace."""


class Fault(Exception):  # noqa: N818 - raised for what is wrong around us, not in the code
    """What went wrong, where, and what to do or what is allowed. Ends the command with status 1."""
