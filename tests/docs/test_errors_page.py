"""Each message on the page of errors is what a user gets who makes that mistake."""

import json
import re
import sys
import textwrap

import optuna
import pytest
import torch

from autocompress import (
    AutoCompressError,
    AutoCompressionExperiment,
    CompressionStudy,
    check_module,
    compress,
    load_compressed,
)
from autocompress.compression.module_loading import ModuleReference
from autocompress.errors import evaluates_differently
from autocompress.search_space import load_search_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.testing import CurveModule, cliff
from autocompress.trial.preflight.inspection import require_module, run_preflight
from tests import scripts
from tests.cli.support import invoke
from tests.docs.pages import PAGES, blocks

PAGE = PAGES / "reference" / "errors.md"
SPACE = {
    "algorithm_name": {
        "_type": "choice",
        "_value": [{"_name": "l2", "config_list::Linear::::sparsity": {"_type": "uniform", "_value": [0.0, 0.95]}}],
    }
}
MODULE = """
import torch

from autocompress.testing import CurveModule, CurveNet, cliff


class Dropout(CurveNet):
    def __init__(self, width):
        super().__init__(width)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.hidden(x))))


class MyModule(CurveModule):
    curve = staticmethod(cliff(0.6))
    {body}
"""
CASES = {}
SLOW = ("A checkpoint without its model", "Nothing within the budget", "Another study")


def case(title):
    """Register how the message of an entry comes about: a function of a folder that returns it."""
    return lambda function: CASES.setdefault(title, function)


class Cliff(CurveModule):
    curve = staticmethod(cliff(0.6))


class NoData(Cliff):
    @classmethod
    def post_compress_finetuning_trainer(cls, compress_algorithm_name):
        return None


class Never(CurveModule):
    curve = staticmethod(lambda rate, epochs: 0.9 if rate == 0 else 0.6)


def raised(function, *arguments, **options):
    with pytest.raises(AutoCompressError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def printed(folder, *options, space=SPACE):
    """What `run` prints before it begins, for a search space or options with a mistake in them."""
    (folder / "module.py").write_text(MODULE.format(body="pass"))
    (folder / "space.json").write_text(json.dumps(space))
    arguments = [f"{folder}/module.py:MyModule", "--search-space", folder / "space.json", "--out", folder / "out"]
    answer = invoke("run", *arguments, *options)
    assert answer.exit_code == 2, answer.output
    return answer.stderr.replace(f"{folder}/", "")


def checked(body):
    """What the preflight says to a module with a mistake in it."""

    def message(folder):
        text = MODULE.format(body=textwrap.indent(textwrap.dedent(body), "    ").strip())
        (folder / "my_module.py").write_text(text)
        reference = ModuleReference.parse(f"{folder}/my_module.py:MyModule")
        try:
            return raised(lambda: preflight(reference.load()))
        finally:
            sys.modules.pop("my_module", None)  # other tests have files of that name

    return message


def preflight(module):
    space, settings = load_search_space(SPACE), AccuracyAwareSettings()
    require_module(module, space, settings)
    run_preflight(module, space, settings, module.model())


def searched(folder, space):
    return printed(folder, space=space)


def of_algorithm(**wire):
    return {"algorithm_name": {"_type": "choice", "_value": [wire]}}


@case("An unknown name")
def _(folder):
    return searched(folder, of_algorithm(_name="l3"))


@case("A key in the wrong format")
def _(folder):
    return searched(folder, of_algorithm(_name="l2", **{"config_list::Linear::sparsity": 0.5}))


@case("A tuner without an end")
def _(folder):
    return printed(folder, "--tuner", "TPE")


@case("A budget that looks like a mistake")
def _(folder):
    return printed(folder, "--max-relative-drop", "0.01")


case("No classmethod")(checked("def evaluator(self):\n    return lambda model: 0.9"))
case("A misspelled hook")(checked("@classmethod\ndef holdout_evalator(cls):\n    return lambda model: 0.9"))
case("Inputs that the model does not take")(
    checked("@classmethod\ndef example_inputs(cls):\n    return torch.ones(1, 7)")
)
case("A noisy evaluator")(
    checked(
        """
        @classmethod
        def evaluator(cls):
            exact = super().evaluator()
            return lambda model: exact(model) + 0.05 * torch.rand(()).item()
        """
    )
)
case("The wrong direction")(
    checked(
        """
        @classmethod
        def evaluator(cls):
            exact = super().evaluator()
            return lambda model: 1 - exact(model)
        """
    )
)
case("An evaluator that ignores its model")(
    checked(
        """
        @classmethod
        def evaluator(cls):
            exact, mine = super().evaluator(), cls.model()
            return lambda model: exact(mine)
        """
    )
)
case("Training mode")(
    checked(
        """
        @classmethod
        def model(cls):
            model = Dropout(cls.width)
            model.load_state_dict(super().model().state_dict())
            return model

        @classmethod
        def evaluator(cls):
            exact = super().evaluator()
            return lambda model: exact(model) + 0 * model.train()(torch.ones(1, 4)).sum().item()
        """
    )
)
case("An optimizer of another model")(
    checked(
        """
        @classmethod
        def optimizer_factory(cls):
            return lambda parameters: torch.optim.SGD(cls.model().parameters(), lr=0.1)
        """
    )
)


@case("Layers that are not there")
def _(folder):
    wire = of_algorithm(_name="l2", **{"config_list::Conv2d::::sparsity": {"_type": "uniform", "_value": [0, 0.9]}})
    (check,) = check_module(Cliff, wire)
    return check.reason


@case("A hook that an algorithm needs")
def _(folder):
    wire = of_algorithm(
        _name="qat", **{"config_list::weight::Linear::::quant_bits": {"_type": "choice", "_value": [8]}}
    )
    (check,) = check_module(NoData, wire)
    return check.reason


@case("A class that trials cannot import")
def _(folder):
    class Inside(CurveModule):
        pass

    return raised(AutoCompressionExperiment, Inside, "local").replace(Inside.__qualname__, "main.<locals>.MyModule")


@case("Functions that are interchanged")
def _(folder):
    return raised(compress, scripts.trained(), scripts.train, scripts.evaluate)


@case("Another model in the directory")
def _(folder):
    given = {"validation_loader": scripts.VALIDATION, "max_drop": "5%", "directory": folder / "search", "quiet": True}
    compress(scripts.trained(), scripts.evaluate, trials=1, **given)
    return raised(compress, scripts.net(), scripts.evaluate, **given)


@case("A checkpoint without its model")
def _(folder):
    """The module's file has been run by the processes of trials, and not by this one."""
    (folder / "my_module.py").write_text(MODULE.format(body="pass"))
    reference = ModuleReference.parse(f"{folder}/my_module.py:MyModule")
    study = CompressionStudy(reference, SPACE, directory=folder / "study")
    study.optimize(n_trials=1)
    return raised(load_compressed, study.result.checkpoint)


@case("Nothing within the budget")
def _(folder):
    return raised(CompressionStudy(Never, SPACE, directory=folder / "study").optimize, n_trials=1)


@case("Another study")
def _(folder):
    CompressionStudy(Cliff, SPACE, directory=folder / "study").begin()
    changed = of_algorithm(_name="l1", **{"config_list::Linear::::sparsity": {"_type": "uniform", "_value": [0, 0.9]}})
    return raised(CompressionStudy(Cliff, changed, directory=folder / "study").begin)


@case("A sampler without an end")
def _(folder):
    sampler = optuna.samplers.RandomSampler()
    return raised(CompressionStudy(Cliff, SPACE, sampler=sampler, directory=folder / "study").optimize)


@case("A result that changes")
def _(folder):
    return f"l2 at rate 0.85 {evaluates_differently(0.9636, 0.9667)}"


@case("A port that is taken")
def _(folder):
    import socket

    from autocompress.engines.nni.manager import require_free_port

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        return raised(require_free_port, port).replace(str(port), "8080")


def entries():
    """Title -> its first block of text."""
    found = {}
    titles = [
        (text.count("\n"), title)
        for title, text in ((match[1], PAGE.read_text()[: match.start()]) for match in _headings())
    ]
    for block in blocks(PAGE):
        title = max(entry for entry in titles if entry[0] < block.line)[1]
        found.setdefault(title, block)
    return found


def _headings():
    return re.finditer(r"^### (.+)$", PAGE.read_text(), re.MULTILINE)


def test_every_entry_has_its_case():
    assert set(entries()) == set(CASES) == {match[1] for match in _headings()}


@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=[pytest.mark.slow] if title in SLOW else []) for title in CASES]
)
def test_the_message_is_what_users_get(title, tmp_path):
    torch.manual_seed(0)
    message = CASES[title](tmp_path)
    shown = " ".join(entries()[title].text.split()).removeprefix("error: ")
    pattern = ".*".join(re.escape(part) for part in shown.split("..."))
    assert re.fullmatch(pattern, " ".join(message.split()).removeprefix("error: ")), (
        f"\nshown: {shown}\nis:    {message}"
    )
    assert len(shown.replace("...", "")) > 40, "an entry shows enough of its message to be found"
