"""Real text: Python's own library sources, a file, or a folder of files. Nothing is ever downloaded."""

from __future__ import annotations

import sysconfig
from functools import lru_cache
from pathlib import Path

import numpy as np

from mnemos.errors import DataError


def text_bytes(source: str) -> np.ndarray:
    """All the text of a source as one read-only array (bytes,) of uint8, its files one after another in the order of
    their names. It is read once and then kept.

    source: a UTF-8 text file, a folder (every text file in it, at any depth; hidden and binary files are left out), or
    the word `stdlib` (the sources of Python's standard library; they differ between versions of Python). Raises
    DataError if the source is missing, cannot be read, is no UTF-8 text or holds no text.
    """
    return _all_bytes(source if source == "stdlib" else str(Path(source).resolve()))


def list_files(source: str) -> list[tuple[str, Path]]:
    """(name, path) of every file of a source, in the order of the names; the names do not depend on where the source
    lies. Raises DataError where there is none."""
    if source == "stdlib":
        return _standard_library()
    path = Path(source)
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        raise DataError(f"there is no data at {source}. Give a text file, a folder of text files, or the word stdlib.")
    found = [(p.relative_to(path).as_posix(), p) for p in path.rglob("*") if p.is_file()]
    found = [(name, p) for name, p in found if not any(part.startswith(".") for part in name.split("/"))]
    if not found:
        raise DataError(f"the folder {source} holds no files. Give a folder with text files in it.")
    return sorted(found)


def read_file(path: Path) -> bytes:
    """What a file holds. Raises DataError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error


def decode(data: bytes, path: Path, *, single: bool) -> str | None:
    """The text of `data`, read from `path`, or None if it is no text and there are other files to read.

    single: whether it is the only file; it must be text then, or DataError is raised.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if not single:
            return None
        raise DataError(
            f"{path} is not UTF-8 text: byte {error.start} is {data[error.start]:#04x} ({error.reason}). "
            "Convert it first, for example with `iconv -f latin1 -t utf-8`."
        ) from error
    return None if not single and "\0" in text else text


def nothing_left(source: str, skipped: int, *, single: bool) -> DataError:
    """The error for a source without text, of which so many files were skipped."""
    if single:
        return DataError(f"{source} is empty. Give a file with text in it.")
    binary = f"; {skipped} binary or non-UTF-8 files were skipped" if skipped else ""
    return DataError(f"the folder {source} holds no text{binary}. Give a folder with UTF-8 text files in it.")


def _standard_library() -> list[tuple[str, Path]]:
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    found = [(p.relative_to(root).as_posix(), p) for p in root.rglob("*.py")]
    found = [(name, p) for name, p in found if not left_out & set(name.split("/"))]
    if not found:
        raise DataError(f"this Python keeps no library sources in {root}. Give a text file or a folder instead.")
    return sorted(found)


@lru_cache(maxsize=4)
def _all_bytes(source: str) -> np.ndarray:
    files = list_files(source)
    single = source != "stdlib" and Path(source).is_file()
    texts: list[bytes] = []
    skipped = 0
    for _, path in files:
        data = read_file(path)
        if decode(data, path, single=single) is None:
            skipped += 1
        else:
            texts.append(data)
    if not any(texts):
        raise nothing_left(source, skipped, single=single)
    return np.frombuffer(b"".join(texts), dtype=np.uint8)
