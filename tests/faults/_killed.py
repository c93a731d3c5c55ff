"""Trainings that are killed: run as a program, each in a process of its own."""

import os
import signal
import sys

import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, Checkpoint, LoadInitState, LRScheduler

from sk_advdef import PGD, AdversariallyAugmentedClassifier, CertifiedClassifier
from tests._instances import make_rows, small_net

X, y = make_rows(n_samples=120)
EPOCHS = 6
EVERY_EPOCH = {
    "f_params": "params_{last_epoch[epoch]}.pt",
    "f_optimizer": "optimizer_{last_epoch[epoch]}.pt",
    "f_training": "training_{last_epoch[epoch]}.pt",
}


class Killed(Callback):
    """The process dies in the middle of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch_end(self, net, training=False, **kwargs):
        if len(net.history) == self.epoch and len(net.history[-1, "batches"]) == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def net_in(folder, *callbacks, **files):
    checkpoint = Checkpoint(monitor=None, dirname=str(folder), **EVERY_EPOCH | files)
    schedule = LRScheduler("CosineAnnealingLR", T_max=EPOCHS)
    return small_net(
        max_epochs=EPOCHS,
        module__dropout=0.2,
        callbacks=[LoadInitState(checkpoint), schedule, checkpoint, *callbacks],
    )


def augmented(net, **params):
    given = {
        "attack": [PGD(0.2, steps=2, bounds=None), PGD(0.1, steps=2, bounds=None)],
        "eps_warmup": 4,
        "random_state": 0,
    }
    return AdversariallyAugmentedClassifier(net, **given | params)


TRAININGS = {
    "warm-up, EMA, stopping": lambda net: augmented(
        net, averaging="ema", early_stopping=True, n_iter_no_change=9
    ),
    "SWA": lambda net: augmented(net, averaging="swa", method="trades", steps=2),
    "free": lambda net: augmented(net, method="free", replays=2),
    "certified": lambda net: CertifiedClassifier(
        make_pipeline(StandardScaler(), net), eps=0.1, bounds=None, random_state=0
    ),
}


def trained(name, folder, *callbacks):
    return TRAININGS[name](net_in(folder, *callbacks)).fit(X, y)


def weights_of(model):
    last = model.estimator_
    last = last.steps[-1][1] if hasattr(last, "steps") else last
    return [w.detach().numpy() for w in last.net_.module_.state_dict().values()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number, name in enumerate(TRAININGS):
        child = os.fork()
        if child == 0:
            trained(name, f"{sys.argv[1]}/{number}", Killed(epoch=4))
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
