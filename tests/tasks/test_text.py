import re
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from mnemos.errors import DataError
from mnemos.tasks.text import text_bytes


def test_the_standard_library_is_text_that_needs_no_download() -> None:
    found = text_bytes("stdlib")
    assert found.dtype == np.uint8 and found.ndim == 1 and not found.flags.writeable
    assert Path(sysconfig.get_path("stdlib"), "random.py").read_bytes() in found.tobytes()
    assert text_bytes("stdlib") is found


def test_a_file_is_its_bytes_and_a_folder_its_text_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("añil", encoding="utf-8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.txt").write_text("first ")
    (tmp_path / "picture.png").write_bytes(b"\xff\xfe")
    (tmp_path / ".hidden").write_text("never")
    assert text_bytes(str(tmp_path)).tobytes() == "first añil".encode()
    assert text_bytes(str(tmp_path / "b.txt")).tobytes() == "añil".encode()


def test_the_same_word_means_another_file_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text(name)
        monkeypatch.chdir(tmp_path / name)
        assert text_bytes("text").tobytes() == name.encode()


def test_text_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("caña".encode("latin1"))
    (tmp_path / "bare").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\xff\xfe")
    (tmp_path / "pictures" / "b.txt").write_text("")
    for source, message in (
        ("nowhere", "there is no data at .*nowhere. Give a text file, a folder of text files, or the word stdlib."),
        ("empty.txt", "empty.txt is empty. Give a file with text in it."),
        ("latin.txt", "latin.txt is not UTF-8 text: byte 2 is 0xf1"),
        ("bare", "bare holds no files"),
        ("pictures", "pictures holds no text; 1 binary or non-UTF-8 files were skipped"),
    ):
        with pytest.raises(DataError, match=re.compile(message)):
            text_bytes(str(tmp_path / source))
