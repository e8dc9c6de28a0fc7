"""Finding a user's module again, in another process too."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from autocompress.compress.importing import attribute, found, import_name, imported, name_in_package, source
from autocompress.compress.module import AbstractAutoCompressionModule, ModuleClass
from autocompress.compress.torchvision_operators import define_torchvision_operators
from autocompress.errors import ModuleError, unknown_name


@dataclass(frozen=True)
class ModuleReference:
    """Where a module class is defined, for any process on this machine.

    Attributes:
        file: absolute path of the source file.
        name: name to import it by; never `__main__`.
        root: absolute path of the directory that name starts from, for `sys.path`.
        class_name: qualified name of the class in the file.
    """

    file: str
    name: str
    root: str
    class_name: str

    @classmethod
    def of(cls, module: type) -> ModuleReference:
        """The reference of a class given in Python, also one of the launching script.

        Raises:
            ModuleError: not a class, or a class no other process could import: made interactively or inside a function.
        """
        if not isinstance(module, type):
            raise ModuleError(f"a compression module must be a class; got {module!r}")
        rule = f"{module.__name__} must be defined at the top level of a Python file, so that trials can import it"
        if "<locals>" in module.__qualname__:
            raise ModuleError(f"{rule}; it is defined inside a function ({module.__qualname__}): move it out")
        home = sys.modules.get(module.__module__)
        file = getattr(home, "__file__", None)
        if home is None or file is None or not Path(file).is_file():
            raise ModuleError(f"{rule}; it was made interactively: put it in a file and import it from there")
        name, root = import_name(home, Path(file).resolve())
        return cls(str(Path(file).resolve()), name, str(root), module.__qualname__)

    @classmethod
    def parse(cls, text: str) -> ModuleReference:
        """The reference that `path/to/file.py:ClassName` or `package.module:ClassName` writes.

        Raises:
            ModuleError: neither form, no such file, or no such module.
        """
        place, _, class_name = text.rpartition(":")
        if not place or not class_name.replace(".", "_").isidentifier():
            raise ModuleError(
                f"a module must be given as path/to/file.py:ClassName or package.module:ClassName; got {text!r}"
            )
        file = Path(place) if place.endswith(".py") or "/" in place or "\\" in place else found(place)
        if not file.is_file():
            raise ModuleError(f"the module's file must exist; there is no {place!r} (in {text!r})")
        name, root = name_in_package(file.resolve())
        return cls(str(file.resolve()), name, str(root), class_name)

    def moved(self, root: Path) -> ModuleReference:
        """The same module where its root is another directory, on another machine."""
        home = root.resolve()
        return replace(self, file=str(home / Path(self.file).relative_to(self.root)), root=str(home))

    def load(self) -> ModuleClass:
        """Import the file, not as `__main__`, and give its class.

        Raises:
            ModuleError: the file cannot be imported; the class is missing, of another kind, or lacks methods.
        """
        define_torchvision_operators()
        return _checked(imported(self.file, self.name, self.root, self.class_name), self)

    def fingerprint(self) -> str:
        """SHA-256 of the file's source text.

        Raises:
            ModuleError: the file is missing.
        """
        return hashlib.sha256(source(self.file)).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModuleReference:
        """The reference that `to_dict` wrote.

        Raises:
            ModuleError: a field is missing, unknown, or not a text.
        """
        try:
            reference = cls(**data)
        except TypeError as error:
            raise ModuleError(f"a module reference must have file, name, root and class_name; {error}") from error
        if not all(isinstance(value, str) for value in data.values()):
            raise ModuleError(f"a module reference must consist of texts; got {dict(data)!r}")
        return reference


def _checked(module: ModuleType, reference: ModuleReference) -> ModuleClass:
    wanted, file = attribute(module, reference.class_name), Path(reference.file).name
    if wanted is None:
        raise ModuleError(f"{file}: {unknown_name('class', reference.class_name, _usable(module))}")
    if not isinstance(wanted, type) or not issubclass(wanted, AbstractAutoCompressionModule):
        raise ModuleError(
            f"{file}: a compression module must be a subclass of AbstractAutoCompressionModule; "
            f"{reference.class_name} is not (subclasses there: {', '.join(_usable(module)) or 'none'})"
        )
    if inspect.isabstract(wanted):
        missing = ", ".join(sorted(wanted.__abstractmethods__))
        raise ModuleError(
            f"{file}: a compression module must define model and evaluator; {wanted.__name__} lacks {missing}"
        )
    return wanted


def _usable(module: ModuleType) -> list[str]:
    return sorted(
        name
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, AbstractAutoCompressionModule)
        and not inspect.isabstract(value)
    )
