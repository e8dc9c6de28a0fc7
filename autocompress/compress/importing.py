"""Importing one file under a name of its own, whatever else is called so."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from autocompress.errors import ModuleError

_loading: list[Path] = []


def loading_file() -> Path | None:
    """The file that `ModuleReference.load` is executing right now: a script that launches unguarded can be told so."""
    return _loading[-1] if _loading else None


@contextlib.contextmanager
def on_path(root: str) -> Iterator[None]:
    """Have a directory on `sys.path`, which is left as it was; other entries that the block adds stay."""
    if root in sys.path:
        yield
        return
    sys.path.insert(0, root)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(root)


def known(file: str, name: str, class_name: str) -> ModuleType | None:
    """The module of a file, if this process has imported it already and it has the class; nothing is run."""
    for each in ("__main__", name, _path_name(file)):
        module = sys.modules.get(each)
        if module is not None and _is(module, file) and attribute(module, class_name) is not None:
            return module
    return None


def imported(file: str, name: str, root: str, class_name: str) -> ModuleType:
    """The module of a file: the launching script if it is that, else imported by name, else by path.

    Args:
        file: absolute path of the source file.
        name: name to import it by.
        root: directory to have on `sys.path` meanwhile.
        class_name: qualified name of the class that is wanted from it.

    Raises:
        ModuleError: the file is missing or its import fails.
    """
    main = sys.modules["__main__"]
    if _is(main, file) and attribute(main, class_name) is not None:
        return main  # the launching script itself: a second copy would run it again
    source(file)
    _loading.append(Path(file))
    try:
        with on_path(root):
            importlib.invalidate_caches()
            return _by_name(name, file) or _by_path(file)
    except (Exception, SystemExit) as error:
        reason = f"it exits ({error})" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        raise ModuleError(f"the module's file must be importable; importing {file!r} fails: {reason}") from error
    finally:
        _loading.pop()


def _by_name(name: str, file: str) -> ModuleType | None:
    known = sys.modules.get(name)
    if known is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None
        if spec is None or spec.origin is None or not _same(spec.origin, file):
            return None  # another module has that name
        known = importlib.import_module(name)
    return known if _is(known, file) else None


def _path_name(file: str) -> str:
    return f"_autocompress_{hashlib.sha256(file.encode()).hexdigest()[:8]}_{Path(file).stem}"


def _by_path(file: str) -> ModuleType:
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


def _is(module: ModuleType, file: str) -> bool:
    own = getattr(module, "__file__", None)
    return own is not None and _same(own, file)


def _same(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def source(file: str) -> bytes:
    """The text of a source file.

    Raises:
        ModuleError: it cannot be read.
    """
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ModuleError(f"the module's file must be readable; {file!r} is not: {error.strerror}") from error


def attribute(module: ModuleType, dotted: str) -> Any | None:
    """What a dotted name of a class in a module stands for; None where there is nothing. No code of the module runs."""
    value: Any = module
    for part in dotted.split("."):
        value = vars(value).get(part) if isinstance(value, ModuleType | type) else None
    return value


def import_name(home: ModuleType, file: Path) -> tuple[str, Path]:
    """The name another process can import a running module by, and the directory that name starts from."""
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
    """The dotted name of a file in the package it lies in, and the directory that name starts from."""
    parts, folder = ([] if file.name == "__init__.py" else [file.stem]), file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def found(name: str) -> Path:
    """The file of a module that can be imported from here.

    Raises:
        ModuleError: there is none.
    """
    try:
        with on_path(str(Path.cwd())):
            importlib.invalidate_caches()
            spec = importlib.util.find_spec(name)
    except Exception as error:
        raise ModuleError(f"the package of {name!r} must be importable; it is not: {error}") from error
    if spec is None or spec.origin is None or not spec.has_location:
        raise ModuleError(f"the module must be a Python file; there is no module {name!r} (on sys.path or here)")
    return Path(spec.origin)
