"""What goes wrong in a worker process of joblib."""

import os
import signal
import time

from sklearn.linear_model import LogisticRegression


def go_off(fault, pid):
    """Open a Fault: in the process that it was made for it is harmless."""
    if os.getpid() != pid:
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        os.kill(pid, signal.SIGINT)
        time.sleep(600)
    return Fault(fault)


class Fault:
    """Goes off where a worker opens what holds it: kills it, or presses Ctrl-C."""

    def __init__(self, fault):
        self.fault = fault

    def __reduce__(self):
        return go_off, (self.fault, os.getpid())


class KilledInFit(LogisticRegression):
    """Its process is killed in ``fit``, as by a system that has no memory left."""

    def fit(self, X, y, sample_weight=None):
        os.kill(os.getpid(), signal.SIGKILL)
