"""Finding a user's module again, in another process too."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from autocompress.compress.module import AbstractAutoCompressionModule, ModuleClass
from autocompress.compress.torchvision_operators import define_torchvision_operators
from autocompress.errors import ModuleError, unknown_name

_loading: list[Path] = []


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
        name, root = _import_name(home, Path(file).resolve())
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
        file = Path(place) if place.endswith(".py") or "/" in place or "\\" in place else _find(place)
        if not file.is_file():
            raise ModuleError(f"the module's file must exist; there is no {place!r} (in {text!r})")
        name, root = _name_in_package(file.resolve())
        return cls(str(file.resolve()), name, str(root), class_name)

    def load(self) -> ModuleClass:
        """Import the file, not as `__main__`, and give its class.

        Raises:
            ModuleError: the file cannot be imported; the class is missing, of another kind, or lacks methods.
        """
        define_torchvision_operators()
        return _checked(_imported(self), self)

    def fingerprint(self) -> str:
        """SHA-256 of the file's source text.

        Raises:
            ModuleError: the file is missing.
        """
        return hashlib.sha256(_source(self)).hexdigest()

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


def loading_file() -> Path | None:
    """The file that `ModuleReference.load` is executing right now: a script that launches unguarded can be told so."""
    return _loading[-1] if _loading else None


def _source(reference: ModuleReference) -> bytes:
    try:
        return Path(reference.file).read_bytes()
    except OSError as error:
        raise ModuleError(f"the module's file must be readable; {reference.file!r} is not: {error.strerror}") from error


def _import_name(home: ModuleType, file: Path) -> tuple[str, Path]:
    spec = getattr(home, "__spec__", None)
    name = home.__name__ if home.__name__ != "__main__" else getattr(spec, "name", None)
    if name is None:  # a script: Python put its directory on sys.path
        return file.stem, file.parent
    name = name.removesuffix(".__main__") if file.name != "__main__.py" else name
    parts = name.split(".")
    place = file.parent if file.name == "__init__.py" else file.with_suffix("")
    if list(place.parts[-len(parts) :]) == parts:
        return name, place.parents[len(parts) - 1]
    return _name_in_package(file)


def _name_in_package(file: Path) -> tuple[str, Path]:
    parts, folder = ([] if file.name == "__init__.py" else [file.stem]), file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def _find(name: str) -> Path:
    try:
        with _on_path(str(Path.cwd())):
            importlib.invalidate_caches()
            spec = importlib.util.find_spec(name)
    except Exception as error:
        raise ModuleError(f"the package of {name!r} must be importable; it is not: {error}") from error
    if spec is None or spec.origin is None or not spec.has_location:
        raise ModuleError(f"the module must be a Python file; there is no module {name!r} (on sys.path or here)")
    return Path(spec.origin)


@contextlib.contextmanager
def _on_path(root: str) -> Iterator[None]:
    sys.path.insert(0, root)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(root)


def _imported(reference: ModuleReference) -> ModuleType:
    main = sys.modules["__main__"]
    if _is(main, reference.file) and _attribute(main, reference.class_name) is not None:
        return main  # the launching script itself: a second copy would run it again
    _source(reference)
    if reference.root not in sys.path:
        sys.path.insert(0, reference.root)
    _loading.append(Path(reference.file))
    try:
        importlib.invalidate_caches()
        return _by_name(reference) or _by_path(reference)
    except (Exception, SystemExit) as error:
        reason = f"it exits ({error})" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        raise ModuleError(
            f"the module's file must be importable; importing {reference.file!r} fails: {reason}"
        ) from error
    finally:
        _loading.pop()


def _by_name(reference: ModuleReference) -> ModuleType | None:
    known = sys.modules.get(reference.name)
    if known is None:
        try:
            spec = importlib.util.find_spec(reference.name)
        except (ImportError, ValueError):
            return None
        if spec is None or spec.origin is None or not _same(spec.origin, reference.file):
            return None  # another module has that name
        known = importlib.import_module(reference.name)
    return known if _is(known, reference.file) else None


def _by_path(reference: ModuleReference) -> ModuleType:
    name = f"_autocompress_{hashlib.sha256(reference.file.encode()).hexdigest()[:8]}_{Path(reference.file).stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, reference.file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{reference.file!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is(module: ModuleType, file: str) -> bool:
    own = getattr(module, "__file__", None)
    return own is not None and _same(own, file)


def _same(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def _attribute(module: ModuleType, dotted: str) -> Any | None:
    value: Any = module
    for part in dotted.split("."):
        value = getattr(value, part, None)
    return value


def _checked(module: ModuleType, reference: ModuleReference) -> ModuleClass:
    found, file = _attribute(module, reference.class_name), Path(reference.file).name
    if found is None:
        raise ModuleError(f"{file}: {unknown_name('class', reference.class_name, _usable(module))}")
    if not isinstance(found, type) or not issubclass(found, AbstractAutoCompressionModule):
        raise ModuleError(
            f"{file}: a compression module must be a subclass of AbstractAutoCompressionModule; "
            f"{reference.class_name} is not (subclasses there: {', '.join(_usable(module)) or 'none'})"
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ModuleError(
            f"{file}: a compression module must define model and evaluator; {found.__name__} lacks {missing}"
        )
    return found


def _usable(module: ModuleType) -> list[str]:
    return sorted(
        name
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, AbstractAutoCompressionModule)
        and not inspect.isabstract(value)
    )
