"""The error of the testbed."""


class TestbedError(Exception):
    """The testbed cannot do this; the message is one line that says what to do next."""

    __test__ = False  # pytest would take it for a test class by its name
