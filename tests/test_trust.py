"""Whose code is run where a checkpoint or an experiment's directory names a module."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from autocompress.compression.module_loading import ModuleReference
from autocompress.errors import StoreError
from autocompress.formats.checkpoint import load_compressed
from autocompress.result import CompressionResult
from tests.cli.support import invoke
from tests.formats.strange import outputs
from tests.owned import Owned, python

SHOW = "; import torch; from tests.formats.strange import outputs; print(outputs(model).tolist())"


@pytest.fixture
def owned(tmp_path, request):
    """An experiment of a pruned model, its module elsewhere under a name that no other test has imported."""
    name = f"owned_{re.sub('[^a-z]', '_', request.node.name.lower())}"
    return Owned(tmp_path, "float", tmp_path / "code", name)


@pytest.fixture(autouse=True)
def path():
    before = list(sys.path)
    yield
    assert sys.path == before


def printed(line, cwd):
    """What the model's outputs are in a process that runs a line as it stands, or that needs a name for its value."""
    begin = "" if line.startswith("import ") else "import autocompress; model = "
    return python(f"{begin}{line.partition('  #')[0]}{SHOW}", cwd).strip()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float", "int8", "coded"])
def test_the_line_that_a_search_ends_with_works_in_a_fresh_process(kind, tmp_path):
    owned = Owned(tmp_path, kind, tmp_path / "code", f"owned_line_{kind}")
    told = invoke("best", owned.directory.path).output
    assert owned.runs == 0
    line = re.search(r"^load it     (.*)$", told, re.MULTILINE)[1]
    assert line == CompressionResult(owned.directory).loading_line
    assert printed(line, tmp_path / "code" / "..") == str(outputs(owned.model).tolist())
    assert owned.runs == (0 if kind == "int8" else 1), "an int8 checkpoint needs no module"


def test_a_checkpoint_runs_no_module_and_says_what_to_write_instead(owned):
    with pytest.raises(StoreError, match=r"a file that is not run unless you say so; give the uncompressed model") as e:
        load_compressed(owned.checkpoint)
    assert owned.runs == 0
    importing, trusting = re.findall(r"^    (.*)$", str(e.value), re.MULTILINE)
    first, line = importing.split("; ")
    assert first == f"from {owned.reference.name} import Thing"
    wanted = str(outputs(owned.model).tolist())
    code = owned.file.parent
    assert python(f"import autocompress; {first}; model = {line}{SHOW}", code).strip() == wanted
    assert printed(trusting, code.parent) == wanted
    assert owned.runs == 2


def test_ways_to_name_the_module(owned):
    wanted = outputs(owned.model)
    assert torch.equal(outputs(load_compressed(owned.checkpoint, module=f"{owned.file}:Thing")), wanted)
    assert owned.runs == 1
    assert torch.equal(outputs(load_compressed(owned.checkpoint)), wanted), "this process has it by now"
    assert torch.equal(outputs(load_compressed(owned.checkpoint, trust_module=True)), wanted)
    module = owned.reference.load()
    with owned.reference.on_path():
        assert torch.equal(outputs(load_compressed(owned.checkpoint, module=module)), wanted)
    assert owned.runs == 1


def test_a_result_of_this_process_runs_its_module(owned):
    result = CompressionResult(owned.directory, owned.reference)
    assert torch.equal(outputs(result.load_model()), outputs(owned.model))
    assert owned.runs == 1
    result.export(owned.directory.path / "exported")
    assert (owned.directory.path / "exported" / "weights.pt").exists()


def test_a_result_that_was_opened_does_not(owned):
    result = CompressionResult(owned.directory)
    for ask, call in ((result.load_model, r"load_model\("), (lambda: result.export("small"), r"export\('small', ")):
        with pytest.raises(
            StoreError, match=rf"(?s)is of Thing in '.*', a file that is not run.*\n    {call}trust_module=True\)$"
        ):
            ask()
    assert owned.runs == 0
    assert torch.equal(outputs(result.load_model(trust_module=True)), outputs(owned.model))
    assert owned.runs == 1


def test_experiments_and_studies_that_were_opened_do_not_until_they_are_resumed(owned):
    from autocompress.engines.nni.experiment import AutoCompressionExperiment

    opened = AutoCompressionExperiment.open(owned.directory.path)
    assert opened.result.module is None
    given = AutoCompressionExperiment(owned.reference, "local", directory=owned.directory.path)
    assert given.result.module == owned.reference


@pytest.mark.parametrize("command", ["status", "trials", "best", "report"])
def test_commands_that_look_run_nothing(owned, command):
    answer = invoke(command, owned.directory.path)
    assert answer.exit_code == 0, answer.output
    assert owned.runs == 0
    assert owned.reference.name not in sys.modules


def test_export_says_which_file_it_runs(owned, tmp_path):
    answer = invoke("export", owned.directory.path, tmp_path / "exported")
    assert answer.exit_code == 0, answer.output
    assert f"runs      {owned.file}" in answer.stderr
    assert owned.runs == 1


def test_export_runs_no_file_that_has_changed(owned, tmp_path):
    owned.file.write_text(owned.file.read_text() + "# more\n")
    answer = invoke("export", owned.directory.path, tmp_path / "exported")
    assert answer.exit_code == 2
    assert "must be the one that the search began with; it has changed since" in answer.stderr
    assert owned.runs == 0
    assert invoke("export", owned.directory.path, tmp_path / "exported", "--trust-module").exit_code == 0
    assert owned.runs == 1


def test_export_runs_no_file_that_came_with_the_directory(tmp_path):
    owned = Owned(tmp_path, "float", tmp_path / "experiment" / "code", "owned_inside")
    answer = invoke("export", owned.directory.path, tmp_path / "exported")
    assert answer.exit_code == 2
    assert "must be outside of the experiment's directory" in answer.stderr
    assert owned.runs == 0
    assert invoke("export", owned.directory.path, tmp_path / "exported", "--trust-module").exit_code == 0


def test_hooks_find_what_lies_beside_their_file_and_the_path_is_left_as_it_was(owned):
    before = list(sys.path)
    module = ModuleReference.from_dict(owned.reference.to_dict()).load()
    assert sys.path == before
    with owned.reference.on_path():
        assert module.model() is not None
    assert sys.path == before
