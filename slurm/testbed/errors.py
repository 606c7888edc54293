"""What a person has to correct, in one line."""


class TestbedError(Exception):
    """The testbed cannot do what was asked; the message is one line that says what to do next."""

    __test__ = False  # pytest would take its name for that of a test class
