"""Trainings that are killed: run as a program, each in a process of its own."""

import os
import signal
import sys

import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, Checkpoint, LoadInitState, LRScheduler

from sk_advdef import PGD, AdversariallyAugmentedClassifier, CertifiedClassifier
from sk_advdef.nets import DropoutMLP

# without what other tests share, which would be made anew in each process
X, y = make_classification(120, 6, n_informative=4, n_classes=3, random_state=0)
X = X.astype(np.float32)
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
    return NeuralNetClassifier(
        DropoutMLP,
        module__n_classes=3,
        module__hidden=(16,),
        module__dropout=0.2,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.02,
        max_epochs=EPOCHS,
        batch_size=32,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
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
    "a loss that rises": lambda net: augmented(
        net, attack=PGD(2.0, steps=2, bounds=None), eps_warmup=EPOCHS
    ),
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
    # what the first step of an optimizer loads, once for all
    torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()
    for number, name in enumerate(TRAININGS):
        child = os.fork()
        if child == 0:
            trained(name, f"{sys.argv[1]}/{number}", Killed(epoch=4))
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
