"""Modules for the tests, by the shape of their accuracy."""

import atexit
import functools
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional

from autocompress import AbstractAutoCompressionModule
from autocompress.testing import CurveModule, cliff, flat, knee, never
from autocompress.testing.fakes import CurveNet


class Knee(CurveModule):
    curve = staticmethod(knee(0.7))


class Cliff(CurveModule):
    curve = staticmethod(cliff(0.62))


class Flat(CurveModule):
    curve = staticmethod(flat())


class Never(CurveModule):
    curve = staticmethod(never())


class Slow(CurveModule):
    curve = staticmethod(cliff(0.62, epochs_needed=2))
    seconds_per_epoch = 0.7


class LowerIsBetter(CurveModule):
    curve = staticmethod(lambda rate, _: -3.0 if rate <= 0.62 else -1.0)
    higher_is_better = False


class NanAbove(CurveModule):
    curve = staticmethod(lambda rate, _: float("nan") if rate > 0.75 else 0.9)


class TextAbove(CurveModule):
    curve = staticmethod(lambda rate, _: "good" if rate > 0.75 else 0.9)


class RaisesAlways(CurveModule):
    """In every trial; with the uncompressed model it would be refused before the first one."""

    @classmethod
    def train_epoch(cls, model, optimizer, criterion, epoch):
        if cls.rate(model) > 0:
            raise RuntimeError("the trainer is broken")
        super().train_epoch(model, optimizer, criterion, epoch)


class NoTrainer(CurveModule):
    curve = staticmethod(cliff(0.62))

    @classmethod
    def post_compress_finetuning_trainer(cls, compress_algorithm_name):
        return None


class NoOptimizer(CurveModule):
    @classmethod
    def optimizer_factory(cls):
        return None


class CountsEpochs(CurveModule):
    """Writes a line for each epoch it trains, so that a test can see what was trained twice."""

    curve = staticmethod(cliff(0.62, epochs_needed=2))
    seconds_per_epoch = 0.3

    @classmethod
    def train_epoch(cls, model, optimizer, criterion, epoch):
        super().train_epoch(model, optimizer, criterion, epoch)
        with Path(os.environ["EPOCHS_LOG"]).open("a") as log:
            log.write(f"{cls.rate(model):.4f} {epoch}\n")


class Abstract(CurveModule):
    evaluator = AbstractAutoCompressionModule.evaluator


class NotAModule:
    pass


class TellsItsEnd(CurveModule):
    @classmethod
    def model(cls):
        atexit.register(print, "the module's last words")
        return super().model()


class EndsAbove(CurveModule):
    """Something happens to the process where it trains beyond the edge."""

    curve = staticmethod(cliff(0.62))

    @classmethod
    def train_epoch(cls, model, optimizer, criterion, epoch):
        super().train_epoch(model, optimizer, criterion, epoch)
        if cls.rate(model) > 0.62:
            cls.happen()


class HangsAbove(EndsAbove):
    @classmethod
    def happen(cls):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # as a call into a library that never returns
        time.sleep(3600)


class KilledAbove(EndsAbove):
    """As the kernel does it where memory is short."""

    @classmethod
    def happen(cls):
        os.kill(os.getpid(), signal.SIGKILL)


class StopsOnce(EndsAbove):
    """As by Ctrl-Z, or a debugger: no limit inside of the process can end it. Only while the file STOP exists."""

    @classmethod
    def happen(cls):
        marker = Path(os.environ["STOP"])
        if marker.exists():
            marker.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)


class ExitsAbove(EndsAbove):
    """Without a result and without an error."""

    @classmethod
    def happen(cls):
        os._exit(0)


class SysExitsAbove(EndsAbove):
    @classmethod
    def happen(cls):
        sys.exit(0)


class Forks(CountsEpochs):
    """What it forks outlives it, with all files that it has open; its process ids are noted in the file FORKED."""

    @classmethod
    def train_epoch(cls, model, optimizer, criterion, epoch):
        super().train_epoch(model, optimizer, criterion, epoch)
        if "FORKED" in os.environ and epoch == 0:
            cls.fork(Path(os.environ["FORKED"]))

    @classmethod
    def fork(cls, noted):
        child = os.fork()
        if not child:
            time.sleep(600)
            os._exit(0)
        with noted.open("a") as file:
            file.write(f"{child}\n")


class Bulky(CountsEpochs):
    """Checkpoints of megabytes; one that is written does not take its place while the file HOLD_CHECKPOINTS exists."""

    width = 100_000

    @classmethod
    def model(cls):
        if "HOLD_CHECKPOINTS" in os.environ:
            hold_checkpoints(Path(os.environ["HOLD_CHECKPOINTS"]))
        return super().model()


@functools.cache
def hold_checkpoints(marker):
    """From now on this process renames no checkpoint while the marker exists."""

    def wait(event, arguments):
        if event == "os.rename" and ".checkpoint." in str(arguments[0]):
            while marker.exists():
                time.sleep(0.01)

    sys.addaudithook(wait)


class WithDropout(CurveNet):
    def forward(self, x):
        return self.head(functional.dropout(torch.relu(self.hidden(x)), training=self.training))


class LeavesDropoutOn(CurveModule):
    """Its evaluator forgets the mode, so that its accuracy depends on what was drawn before."""

    @classmethod
    def model(cls):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return WithDropout(cls.width)

    @classmethod
    def evaluator(cls):
        def evaluate(model):
            model.train()
            with torch.no_grad():
                return 0.9 - 0.05 * float(model(torch.ones(64, 4)).mean())

        return evaluate


class PerSample(CurveModule):
    """Whether each of its samples is right: the easier ones, as many as the curve says, and one in 50 by the rate."""

    curve = staticmethod(cliff(0.62, epochs_needed=2))
    samples = 400

    @classmethod
    def values(cls, model):
        order = torch.randperm(cls.samples, generator=torch.Generator().manual_seed(0))
        right = order < round(super().evaluator()(model) * cls.samples)
        flipped = torch.arange(cls.samples) % 50 == round(100 * cls.rate(model)) % 50
        return right ^ flipped

    @classmethod
    def evaluator(cls):
        def evaluate(model):
            with torch.no_grad():
                model(torch.zeros(cls.samples, 4))
            return cls.values(model)

        return evaluate
