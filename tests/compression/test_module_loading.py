from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autocompress.compression.module import AbstractAutoCompressionModule, fresh_model
from autocompress.compression.module_loading import ModuleReference
from autocompress.errors import ModuleError

from . import modules
from .modules import Minimal

SOURCE = """
import torch
from torch import nn
from autocompress.compression.module import AbstractAutoCompressionModule
{imports}

class Good(AbstractAutoCompressionModule):
    @classmethod
    def model(cls):
        return nn.Linear(3, 2)

    @classmethod
    def evaluator(cls):
        return lambda model: float(model(torch.ones(1, 3)).sum())

class Half(AbstractAutoCompressionModule):
    @classmethod
    def model(cls):
        return nn.Linear(3, 2)

class Other:
    class Nested(Good):
        pass

value = 3
{end}
"""


def write(path: Path, imports: str = "", end: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SOURCE.format(imports=imports, end=end))
    return path


def run(*arguments: str, cwd: Path) -> str:
    root = Path(modules.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _imports_are_undone() -> object:
    names, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - names:
        if getattr(sys.modules[name], "__file__", None) and "pytest" in str(sys.modules[name].__file__):
            del sys.modules[name]
    sys.path[:] = path


class TestOf:
    def test_a_class_of_an_imported_file(self) -> None:
        reference = ModuleReference.of(Minimal)
        assert reference.class_name == "Minimal"
        assert reference.name == modules.__name__
        assert reference.load() is Minimal

    def test_json_and_back(self) -> None:
        reference = ModuleReference.of(Minimal)
        assert ModuleReference.from_dict(json.loads(json.dumps(reference.to_dict()))) == reference

    @pytest.mark.parametrize("data", [{}, {"file": "a", "name": "b", "root": "c", "class_name": "d", "more": "e"}])
    def test_another_json(self, data: dict[str, str]) -> None:
        with pytest.raises(ModuleError, match="must have file, name, root and class_name"):
            ModuleReference.from_dict(data)

    def test_a_class_inside_a_function(self) -> None:
        class Inner(Minimal):
            pass

        with pytest.raises(
            ModuleError, match=r"Inner must be defined at the top level .* inside a function \(.*: move it out"
        ):
            ModuleReference.of(Inner)

    def test_an_interactive_class(self, tmp_path: Path) -> None:
        code = (
            "from autocompress.compression.module import AbstractAutoCompressionModule\n"
            "from autocompress.compression.module_loading import ModuleReference\n"
            "class Typed(AbstractAutoCompressionModule): pass\n"
            "try: ModuleReference.of(Typed)\n"
            "except Exception as error: print(type(error).__name__, error)\n"
        )
        printed = run("-c", code, cwd=tmp_path)
        assert printed.startswith("ModuleError Typed must be defined at the top level of a Python file")
        assert "made interactively: put it in a file" in printed

    def test_no_class(self) -> None:
        with pytest.raises(ModuleError, match="must be a class; got"):
            ModuleReference.of(Minimal())


class TestLaunchingScript:
    LAUNCH = (
        "print('top', __name__)\n"
        "if __name__ == '__main__':\n"
        "    import json\n"
        "    from autocompress.compression.module_loading import ModuleReference\n"
        "    reference = ModuleReference.of(Good)\n"
        "    assert reference.load() is Good\n"
        "    open('reference.json', 'w').write(json.dumps(reference.to_dict()))\n"
    )
    TRIAL = (
        "import json\n"
        "from autocompress.compression.module_loading import ModuleReference\n"
        "loaded = ModuleReference.from_dict(json.load(open('{}'))).load()\n"
        "print(loaded.__module__, loaded.__name__, loaded.model().in_features, loaded.helper)\n"
    )

    def test_is_imported_by_the_trial_and_not_run_as_main(self, tmp_path: Path) -> None:
        (tmp_path / "helper.py").write_text("VALUE = 42\n")
        script = write(tmp_path / "launch.py", "import helper", "Good.helper = helper.VALUE\n" + self.LAUNCH)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        assert run(str(script), cwd=tmp_path) == "top __main__\n"
        printed = run("-c", self.TRIAL.format("../reference.json"), cwd=elsewhere)
        assert printed == "top launch\nlaunch Good 3 42\n"

    def test_may_have_the_name_of_a_builtin_module(self, tmp_path: Path) -> None:
        script = write(tmp_path / "time.py", "", "Good.helper = 1\n" + self.LAUNCH)
        run(str(script), cwd=tmp_path)
        assert "Good 3 1" in run("-c", self.TRIAL.format("reference.json"), cwd=tmp_path)

    def test_may_be_a_module_of_a_package(self, tmp_path: Path) -> None:
        write(tmp_path / "package" / "__init__.py")
        (tmp_path / "package" / "helper.py").write_text("VALUE = 7\n")
        imports = "from .helper import VALUE"
        write(tmp_path / "package" / "launch.py", imports, "Good.helper = VALUE\n" + self.LAUNCH)
        run("-m", "package.launch", cwd=tmp_path)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        printed = run("-c", self.TRIAL.format("../reference.json"), cwd=elsewhere)
        assert printed == "top package.launch\npackage.launch Good 3 7\n"


class TestParse:
    def test_a_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path / "by_path.py")
        monkeypatch.chdir(tmp_path)
        reference = ModuleReference.parse("by_path.py:Good")
        assert Path(reference.file) == tmp_path / "by_path.py"
        assert fresh_model(reference.load()).in_features == 3
        assert reference.load() is reference.load()

    def test_a_nested_class(self, tmp_path: Path) -> None:
        reference = ModuleReference.parse(f"{write(tmp_path / 'nested_one.py')}:Other.Nested")
        assert reference.load().__name__ == "Nested"
        assert ModuleReference.of(reference.load()) == reference

    def test_a_path_inside_a_package(self, tmp_path: Path) -> None:
        write(tmp_path / "outer_one" / "__init__.py")
        (tmp_path / "outer_one" / "helper.py").write_text("VALUE = 7\n")
        file = write(tmp_path / "outer_one" / "inner.py", "from .helper import VALUE")
        reference = ModuleReference.parse(f"{file}:Good")
        assert (reference.name, reference.root) == ("outer_one.inner", str(tmp_path))
        assert issubclass(reference.load(), AbstractAutoCompressionModule)

    def test_an_import_name_from_the_current_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path / "outer_two" / "__init__.py")
        write(tmp_path / "outer_two" / "inner.py")
        monkeypatch.chdir(tmp_path)
        reference = ModuleReference.parse("outer_two.inner:Good")
        assert reference.root == str(tmp_path)
        assert reference.load().__module__ == "outer_two.inner"
        assert ModuleReference.parse("outer_two:Good").load().__module__ == "outer_two"

    def test_two_files_of_one_name(self, tmp_path: Path) -> None:
        one, other = (write(tmp_path / folder / "twin.py", "", f"Good.place = '{folder}'") for folder in "ab")
        assert ModuleReference.parse(f"{one}:Good").load().place == "a"
        assert ModuleReference.parse(f"{other}:Good").load().place == "b"

    def test_a_module_that_imports_torchvision(self, tmp_path: Path) -> None:
        file = write(tmp_path / "vision.py", "import torchvision", "Good.layers = torchvision.models.resnet18")
        code = (
            "from autocompress.compression.module_loading import ModuleReference\n"
            f"print(ModuleReference.parse({f'{file}:Good'!r}).load().layers.__name__)\n"
        )
        assert run("-c", code, cwd=tmp_path) == "resnet18\n"

    @pytest.mark.parametrize("text", ["model.py", "model.py:", ":Good", "model.py:not a class", ""])
    def test_another_form(self, text: str) -> None:
        with pytest.raises(
            ModuleError, match=r"must be given as path/to/file\.py:ClassName or package\.module:ClassName"
        ):
            ModuleReference.parse(text)

    def test_no_such_file(self) -> None:
        with pytest.raises(ModuleError, match=r"there is no 'nowhere/model\.py' \(in 'nowhere/model\.py:Good'\)"):
            ModuleReference.parse("nowhere/model.py:Good")

    @pytest.mark.parametrize("name", ["no_such_module", "no_such_package.module", "sys"])
    def test_no_such_module(self, name: str) -> None:
        with pytest.raises(ModuleError, match=name):
            ModuleReference.parse(f"{name}:Good")


class TestLoadErrors:
    def load(self, file: Path, class_name: str = "Good") -> object:
        return ModuleReference.parse(f"{file}:{class_name}").load()

    def test_the_file_is_gone(self, tmp_path: Path) -> None:
        file = write(tmp_path / "soon_gone.py")
        reference = ModuleReference.parse(f"{file}:Good")
        file.unlink()
        for action in (reference.load, reference.fingerprint):
            with pytest.raises(ModuleError, match=r"the module's file must be readable; '.*soon_gone\.py' is not"):
                action()

    def test_a_class_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(
            ModuleError, match=r"missing_class\.py: unknown class 'Goood'; did you mean 'Good'\? \(known: Good\)"
        ):
            self.load(write(tmp_path / "missing_class.py"), "Goood")

    @pytest.mark.parametrize("name", ["Other", "value"])
    def test_another_kind_of_class(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ModuleError, match=rf"{name} is not \(subclasses there: Good\)"):
            self.load(write(tmp_path / f"other_kind_{name}.py"), name)

    def test_missing_methods(self, tmp_path: Path) -> None:
        with pytest.raises(ModuleError, match="must define model and evaluator; Half lacks evaluator"):
            self.load(write(tmp_path / "half_done.py"), "Half")

    @pytest.mark.parametrize(
        ("end", "reason", "cause"),
        [
            ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'", ModuleNotFoundError),
            ("1 / 0", "ZeroDivisionError: division by zero", ZeroDivisionError),
            ("def (", "SyntaxError: ", SyntaxError),
            ("raise SystemExit(2)", r"it exits \(2\)", SystemExit),
        ],
    )
    def test_an_import_that_fails(self, tmp_path: Path, end: str, reason: str, cause: type[BaseException]) -> None:
        file = write(tmp_path / f"failing_{cause.__name__}.py", end=end)
        for _ in range(2):
            with pytest.raises(ModuleError, match=rf"importing '.*' fails: {reason}") as caught:
                self.load(file)
            assert isinstance(caught.value.__cause__, cause)


def test_the_fingerprint_is_that_of_the_text(tmp_path: Path) -> None:
    file = write(tmp_path / "text.py")
    reference = ModuleReference.parse(f"{file}:Good")
    first = reference.fingerprint()
    file.touch()
    assert reference.fingerprint() == first
    write(file, end="# more")
    assert reference.fingerprint() != first
    assert len(first) == 64


def test_a_loaded_model_computes() -> None:
    model = fresh_model(ModuleReference.of(Minimal).load())
    assert model(torch.ones(2, 3, 8, 8)).shape == (2, 5)
