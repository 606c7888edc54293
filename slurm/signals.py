"""The signals of a job. This module imports nothing slow, because a signal kills a job that does not handle it yet.

The handlers only set flags. The trainer saves after the current step, and then the job requeues itself. After SIGTERM
the trainer also saves; then the job is requeued only if it was preempted.
"""

import signal
from types import FrameType

_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


class Signals:
    """The signals that this process received. The trainer calls it before every step to learn whether to stop.

    The trainer always makes one step. Slurm may send its signal a minute early. Under a short time limit a job could
    then be requeued again and again without any progress.

    Attributes:
        told: any signal came.
        go_on_later: the signal before the time limit or before a preemption came.
    """

    def __init__(self) -> None:
        self.told = False
        self.go_on_later = False
        self._asked = 0

    def listen(self) -> None:
        """Handle them from now on."""
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def __call__(self) -> bool:
        """Whether the trainer should stop."""
        self._asked += 1
        return self.told and self._asked > 1

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.told = True
        if number != signal.SIGTERM:
            self.go_on_later = True
