"""The one exception a user may cause."""


class UserError(Exception):
    """Something the user gave us cannot be used: a file, a setting, a bundle.

    The message says what was wrong, where, and the way out. Command-line programs print it alone, without a traceback.
    """
