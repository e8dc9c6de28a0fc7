"""Pages are followed as a reader would follow them: files are written, blocks and commands run, in their order."""

import shutil

import pytest

from tests.docs.pages import PAGES, Reader, all_pages, blocks, name_of
from tests.e2e.machines import PYTHON_PATH, machine, require_machines
from tests.e2e.support import ROOT

TUTORIALS = ("tutorials/nncf", "tutorials/optuna", "tutorials/workers", "tutorials/report", "howto/results")
"""Those that begin in the folder of the first one."""

QUICK = (
    "howto/algorithms",
    "howto/own_algorithm",
    "reference/search_space",
    "reference/settings",
    "explanation/allocation",
    "explanation/search",
    "CONTRIBUTING",
)
LONGER = ("howto/compare",)
ALONE = ("tutorials/one_call",)
ELSEWHERE = ("howto/migration", "tutorials/ssh", "tutorials/own_model", "README")
"""Pages with tests of their own: here, and in `tests/e2e/test_migration.py`."""


def page_of(name):
    return ROOT / f"{name}.md" if name.isupper() else PAGES / f"{name}.md"


def test_every_page_with_python_is_run():
    shown = {name_of(page) for page in all_pages() if any(block.language == "python" for block in blocks(page))}
    assert shown <= {*TUTORIALS, *QUICK, *LONGER, *ALONE, *ELSEWHERE}
    assert {name for name in map(name_of, all_pages()) if name.startswith("tutorials/")} <= {
        *TUTORIALS,
        *ALONE,
        *ELSEWHERE,
    }


@pytest.fixture(scope="session")
def first_files(tmp_path_factory):
    """What the first tutorial has its reader write, with a network that is not trained: enough for short pages."""
    folder = tmp_path_factory.mktemp("files")
    for block in blocks(PAGES / "tutorials/own_model.md"):
        if block.title:
            (folder / block.title).write_text(block.text)
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_short_pages(name, first_files, tmp_path):
    shutil.copytree(first_files, tmp_path, dirs_exist_ok=True)
    untrained(tmp_path)
    Reader(tmp_path, runs_commands=False).read(page_of(name))


def untrained(folder):
    import runpy

    import torch

    torch.save(runpy.run_path(str(folder / "train.py"))["network"]().state_dict(), folder / "network.pt")


@pytest.fixture(scope="session")
def first_tutorial(shared):
    """The folder of a reader who has followed the first tutorial."""
    return shared("first tutorial", lambda folder: Reader(folder).read(PAGES / "tutorials/own_model.md"))


@pytest.mark.slow
@pytest.mark.timeout(1500)  # three searches
def test_your_own_model(first_tutorial):
    assert (first_tutorial / "smaller" / "report.html").exists()
    assert (first_tutorial / "smaller.pt2").exists()
    assert (first_tutorial / "from_python" / "experiment.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TUTORIALS, *LONGER])
def test_tutorials_that_go_on_from_there(name, first_tutorial, tmp_path):
    shutil.copytree(first_tutorial, tmp_path / "folder")
    Reader(tmp_path / "folder", runs_commands=name.startswith("tutorials/")).read(page_of(name))


FEW = "experiment.config.max_trial_number = 2"
"""Each trial over SSH takes seconds to begin; that a whole search there is the same is `tests/e2e/test_remote.py`."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_tutorials_that_need_no_other(name, tmp_path):
    Reader(tmp_path).read(page_of(name))
    assert (tmp_path / "compressed" / "report.html").exists()
    assert (tmp_path / "small.pt2").exists()


@pytest.mark.slow
def test_nni_over_ssh(first_tutorial, tmp_path):
    require_machines()
    shutil.copytree(first_tutorial, tmp_path / "folder")
    for large in ("smaller", "from_python"):  # the folder is copied to the machine
        shutil.rmtree(tmp_path / "folder" / large)
    home = tmp_path / "machine"
    home.mkdir()
    with machine(home) as there:
        mine = {"gpu1": there.host, "port=22": f"port={there.port}", '"me"': '"root"'}
        mine |= {"~/.ssh/id_ed25519": str(there.key), "/opt/venv/bin": PYTHON_PATH}
        mine |= {"    experiment.run(": f"    {FEW}\n    experiment.run("}
        reader = Reader(tmp_path / "folder", mine)
        reader.read(PAGES / "tutorials/ssh.md")
    assert "of the parameters" in reader.output


MY_PROJECT = """
import torch
from train import accuracy, train_epoch
from my_module import MyModule as Trained

trained_model, accuracy, train_epoch = Trained.model, accuracy, train_epoch

X = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(x, (x[:, 0] > 0).long()) for x in X.split(50)]
train_loader, test_loader = BATCHES[:6], BATCHES[6:]


class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))


def train(model, loader, optimizer):
    for x, y in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@torch.no_grad()
def evaluate(model, loader):
    return sum((model.eval()(x).argmax(1) == y).sum().item() for x, y in loader) / 100
"""


@pytest.mark.slow
def test_the_readme(first_tutorial, tmp_path):
    """Its module, and the commands for it; its first lines are run by `.ci/run`."""
    for name in ("train.py", "network.pt"):
        shutil.copy(first_tutorial / name, tmp_path)
    text = (first_tutorial / "my_module.py").read_text()
    (tmp_path / "trained.py").write_text(text)
    (tmp_path / "my_project.py").write_text(MY_PROJECT.replace("from my_module", "from trained"))
    Reader(tmp_path).read(ROOT / "README.md")
    assert (tmp_path / "small.onnx").exists()
    assert (tmp_path / "smaller.onnx").exists()
