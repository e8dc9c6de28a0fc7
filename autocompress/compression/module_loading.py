"""Import of one source file under a name that cannot collide with another module."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import keyword
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from autocompress.compression.module import AbstractAutoCompressionModule, ModuleClass, require_module_class
from autocompress.errors import ModuleError, StoreError, unknown_name


@contextlib.contextmanager
def on_path(root: str) -> Iterator[None]:
    """Put a directory on `sys.path` inside the block; other entries that the block adds stay."""
    if root in sys.path:
        yield
        return
    sys.path.insert(0, root)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(root)


def find_imported(file: str, name: str, class_name: str) -> ModuleType | None:
    """The module of a file if this process has already imported it and it has the class; nothing is executed."""
    for each in ("__main__", name, _path_name(file)):
        module = sys.modules.get(each)
        if module is not None and _is_module_of(module, file) and lookup_class(module, class_name) is not None:
            return module
    return None


def import_file(file: str, name: str, root: str, class_name: str) -> ModuleType:
    """The module of an absolute file path: the running script if it is that file, else imported by name, else by path.

    Raises:
        ModuleError: the file is missing or its import fails.
    """
    main = sys.modules["__main__"]
    if _is_module_of(main, file) and lookup_class(main, class_name) is not None:
        return main  # importing the running script would execute it again
    read_source(file)
    try:
        with on_path(root):
            importlib.invalidate_caches()
            return _import_by_name(name, file) or _import_by_path(file)
    except (Exception, SystemExit) as error:
        reason = f"it exits ({error})" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        raise ModuleError(f"the module's file must be importable; importing {file!r} fails: {reason}") from error


def _import_by_name(name: str, file: str) -> ModuleType | None:
    known = sys.modules.get(name)
    if known is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None
        if spec is None or spec.origin is None or not _same_file(spec.origin, file):
            return None  # another module has that name
        known = importlib.import_module(name)
    return known if _is_module_of(known, file) else None


def _path_name(file: str) -> str:
    return f"_autocompress_{hashlib.sha256(file.encode()).hexdigest()[:8]}_{Path(file).stem}"


def _import_by_path(file: str) -> ModuleType:
    name = _path_name(file)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_module_of(module: ModuleType, file: str) -> bool:
    own = getattr(module, "__file__", None)
    return own is not None and _same_file(own, file)


def _same_file(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def read_source(file: str) -> bytes:
    """The bytes of a source file, or ModuleError if it cannot be read."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ModuleError(f"the module's file must be readable; {file!r} is not: {error.strerror}") from error


def lookup_class(module: ModuleType, dotted: str) -> Any | None:
    """The object of a dotted class name in a module, or None; executes no code of the module."""
    value: Any = module
    for part in dotted.split("."):
        value = vars(value).get(part) if isinstance(value, ModuleType | type) else None
    return value


def import_name(home: ModuleType, file: Path) -> tuple[str, Path]:
    """The name by which another process can import a running module, and the directory the name starts from."""
    spec = getattr(home, "__spec__", None)
    name = home.__name__ if home.__name__ != "__main__" else getattr(spec, "name", None)
    if name is None:  # a script: Python put its directory on sys.path
        return file.stem, file.parent
    name = name.removesuffix(".__main__") if file.name != "__main__.py" else name
    parts = name.split(".")
    place = file.parent if file.name == "__init__.py" else file.with_suffix("")
    if list(place.parts[-len(parts) :]) == parts:
        return name, place.parents[len(parts) - 1]
    return name_in_package(file)


def name_in_package(file: Path) -> tuple[str, Path]:
    """The dotted name of a file within its package, and the directory the name starts from."""
    parts, folder = ([] if file.name == "__init__.py" else [file.stem]), file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def find_module_file(name: str) -> Path:
    """The file of an importable module, or ModuleError if there is none."""
    try:
        with on_path(str(Path.cwd())):
            importlib.invalidate_caches()
            spec = importlib.util.find_spec(name)
    except Exception as error:
        raise ModuleError(f"the package of {name!r} must be importable; it is not: {error}") from error
    if spec is None or spec.origin is None or not spec.has_location:
        raise ModuleError(f"the module must be a Python file; there is no module {name!r} (on sys.path or here)")
    return Path(spec.origin)


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
        if isinstance(getattr(module, "reference", None), LiveReference):
            raise ModuleError(
                f"{module.__name__} must be a class in a file, so that other processes can import it; it is made of "
                "objects of this process, as autocompress.compress makes it: the engine 'local' runs that"
            )
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
        file = Path(place) if place.endswith(".py") or "/" in place or "\\" in place else find_module_file(place)
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
        if keep_path and self.root not in sys.path:
            sys.path.insert(0, self.root)
        return _class_of(import_file(self.file, self.name, self.root, self.class_name), self)

    def in_memory(self) -> ModuleClass | None:
        """The class, if this process has imported its file already; None: it has not. Nothing is run."""
        module = find_imported(self.file, self.name, self.class_name)
        try:
            return None if module is None else _class_of(module, self)
        except ModuleError:
            return None

    def on_path(self) -> AbstractContextManager[None]:
        """Have the module's root on `sys.path`, so that hooks can import the modules beside it."""
        return on_path(self.root)

    def untrusted_message(self, what: str, call: Callable[[str], str], *, takes_model: bool = True) -> str:
        """The error message for a file that names this module without permission to execute it.

        Args:
            what: the file.
            call: from an argument to the call that works.
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
        return hashlib.sha256(read_source(self.file)).hexdigest()

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
            raise ModuleError("a module reference must consist of printable strings")
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


@dataclass(frozen=True)
class LiveReference:
    """A module made of objects of this process: no file defines it, and no other process can import it.

    Attributes:
        module: the class.
        class_name: of the model.
        model: hash of the uncompressed model's structure and weights.
        code: hash of that and of the code of its functions.
    """

    module: ModuleClass = field(repr=False, compare=False)
    class_name: str
    model: str
    code: str

    def load(self) -> ModuleClass:
        """The class."""
        return self.module

    def in_memory(self) -> ModuleClass:
        """The class."""
        return self.module

    def on_path(self) -> AbstractContextManager[None]:
        """It imports nothing."""
        return contextlib.nullcontext()

    def fingerprint(self) -> str:
        """Stands for the hash of a file's source text."""
        return self.code

    def to_dict(self) -> dict[str, str]:
        """A JSON-ready object, of which the module cannot be made again."""
        return {"class_name": self.class_name, "model": self.model}

    def require_same_model(self, recorded: Mapping[str, Any], directory: Path) -> None:
        """Check that an experiment to go on with is of the same model.

        Raises:
            StoreError: its weights or its structure are others.
        """
        if recorded.get("model") != self.model:
            raise StoreError(
                f"the experiment in {str(directory)!r} must be of the same model; its weights or its structure are "
                "others: load the trained weights from a file each time, or name another directory"
            )


AnyReference = ModuleReference | LiveReference
"""A module of a file, or one of objects of this process."""


def reference_of(module: ModuleClass) -> AnyReference:
    """The reference of a module that this process is to run.

    Raises:
        ModuleError: it is no compression module, or neither in a file nor made of objects of this process.
    """
    own: object = getattr(module, "reference", None)
    return own if isinstance(own, LiveReference) else ModuleReference.of(module)


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))


def _class_of(module: ModuleType, reference: ModuleReference) -> ModuleClass:
    wanted, file = lookup_class(module, reference.class_name), Path(reference.file).name
    if wanted is None:
        raise ModuleError(f"{file}: {unknown_name('class', reference.class_name, _module_classes(module))}")
    if not isinstance(wanted, type) or not issubclass(wanted, AbstractAutoCompressionModule):
        raise ModuleError(
            f"{file}: a compression module must be a subclass of AbstractAutoCompressionModule; "
            f"{reference.class_name} is not (subclasses there: {', '.join(_module_classes(module)) or 'none'})"
        )
    if inspect.isabstract(wanted):
        missing = ", ".join(sorted(wanted.__abstractmethods__))
        raise ModuleError(
            f"{file}: a compression module must define model and evaluator; {wanted.__name__} lacks {missing}"
        )
    require_module_class(wanted)
    return wanted


def _module_classes(module: ModuleType) -> list[str]:
    return sorted(
        name
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, AbstractAutoCompressionModule)
        and not inspect.isabstract(value)
    )
