"""Finding a user's module again, in another process too."""

from __future__ import annotations

import hashlib
import inspect
import keyword
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from autocompress.compress.importing import (
    attribute,
    found,
    import_name,
    imported,
    known,
    name_in_package,
    on_path,
    source,
)
from autocompress.compress.module import AbstractAutoCompressionModule, ModuleClass, require_module_class
from autocompress.compress.torchvision_operators import define_torchvision_operators
from autocompress.errors import ModuleError, unknown_name

_LONGEST = 4096
_PATH_CHARACTERS = frozenset("/\\\0")


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
            ModuleError: no compression module, or one that no other process could import: made interactively or inside
                a function.
        """
        require_module_class(module)
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

    def load(self, *, keep_path: bool = False) -> ModuleClass:
        """Import the file, which runs it, not as `__main__`, and give its class.

        Args:
            keep_path: leave its root on `sys.path`, as a process does that is there for this module. Else `sys.path` is
                left as it was, and hooks are to be called within `on_path`.

        Raises:
            ModuleError: the file cannot be imported; the class is missing, of another kind, or lacks methods.
        """
        define_torchvision_operators()
        if keep_path and self.root not in sys.path:
            sys.path.insert(0, self.root)
        return _checked(imported(self.file, self.name, self.root, self.class_name), self)

    def in_memory(self) -> ModuleClass | None:
        """The class, if this process has imported its file already; None: it has not. Nothing is run."""
        module = known(self.file, self.name, self.class_name)
        try:
            return None if module is None else _checked(module, self)
        except ModuleError:
            return None

    def on_path(self) -> AbstractContextManager[None]:
        """Have the module's root on `sys.path`, so that hooks can import what lies beside it."""
        return on_path(self.root)

    def untrusted(self, what: str, call: Callable[[str], str], *, takes_model: bool = True) -> str:
        """The message where a file names this module and nobody has said that it may be run.

        Args:
            what: names the module.
            call: what to call instead, given an argument.
            takes_model: whether the argument can be the uncompressed model.
        """
        outer = self.class_name.partition(".")[0]
        importing = f"from {self.name} import {outer}; " if _is_dotted(self.name) else ""
        given = f"give the uncompressed model:\n    {importing}{call(f'{self.class_name}.model()')}\nor, "
        return (
            f"{what} is of {self.class_name} in {self.file!r}, a file that is not run unless you say so; "
            f"{given if takes_model else ''}where the file is yours or you trust it:\n    {call('trust_module=True')}"
        )

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
            ModuleError: a field is missing or unknown, a path is not absolute, or a name is not one.
        """
        try:
            reference = cls(**data)
        except TypeError as error:
            raise ModuleError(f"a module reference must have file, name, root and class_name; {error}") from error
        values = (reference.file, reference.name, reference.root, reference.class_name)
        if not all(isinstance(value, str) and value.isprintable() and len(value) < _LONGEST for value in values):
            raise ModuleError("a module reference must consist of printable texts")
        file, root = Path(reference.file), Path(reference.root)
        if not file.is_absolute() or file.suffix != ".py" or ".." in file.parts or not file.is_relative_to(root):
            raise ModuleError(
                f"a module's file must be an absolute path below its root; got {str(file)!r} and {str(root)!r}"
            )
        if not root.is_absolute() or not _is_dotted(reference.class_name) or _PATH_CHARACTERS & set(reference.name):
            raise ModuleError(
                f"a module must be given by dotted names; got {reference.name!r} and {reference.class_name!r}"
            )
        return reference


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))


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
