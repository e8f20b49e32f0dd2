from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from mnemos.errors import DataError
from mnemos.train import ByteTokenizer, Corpus, open_corpus

END = ByteTokenizer.end_of_document


def documents(corpus: Corpus) -> list[str]:
    ends = [*corpus.starts[1:], len(corpus.tokens)]
    pieces = [corpus.tokens[a:b].tolist() for a, b in zip(corpus.starts, ends, strict=True)]
    assert all(piece[-1] == END and END not in piece[:-1] for piece in pieces)
    return [ByteTokenizer().decode(piece) for piece in pieces]


def write_folder(folder: Path, count: int) -> dict[str, str]:
    texts = {}
    for i in range(count):
        path = folder / f"part{i % 3}" / f"text{i}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        texts[path.relative_to(folder).as_posix()] = text = f"document {i}, añil " * 3
        path.write_text(text, encoding="utf-8")
    return texts


def open_quietly(source: Path | str) -> Corpus:
    return open_corpus(str(source), ByteTokenizer(), progress=False)


def test_one_file_is_one_document_and_its_end_is_held_out(text_file: Path) -> None:
    corpus = open_quietly(text_file)
    text = text_file.read_text(encoding="utf-8")
    assert documents(corpus) == [text]
    assert corpus.tokens.dtype == np.uint16
    assert len(corpus.held_out) == round(0.05 * len(corpus.tokens))
    assert corpus.bytes_per_token == len(text.encode()) / (len(text.encode()) + 1)
    assert corpus.bits_per_byte(np.log(2) * corpus.bytes_per_token) == pytest.approx(1.0)


def test_a_folder_gives_every_text_once_and_holds_whole_documents_out(tmp_path: Path) -> None:
    texts = write_folder(tmp_path / "texts", 200)
    corpus = open_quietly(tmp_path / "texts")
    assert sorted(documents(corpus)) == sorted(texts.values())
    assert corpus.split in corpus.starts
    assert 0.01 < len(corpus.held_out) / len(corpus.tokens) < 0.12


def test_more_files_move_no_document_across_the_split(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    write_folder(folder, 200)

    def held_out() -> set[str]:
        return set(ByteTokenizer().decode(open_quietly(folder).held_out.tolist()).split("document "))

    before = held_out()
    write_folder(folder, 400)
    assert before < held_out()


def test_few_documents_have_their_last_tokens_held_out(tmp_path: Path) -> None:
    write_folder(tmp_path / "texts", 4)
    corpus = open_quietly(tmp_path / "texts")
    assert len(corpus.held_out) == round(0.05 * len(corpus.tokens))


def test_binary_files_of_a_folder_are_skipped_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    texts = write_folder(folder, 3)
    (folder / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    (folder / "table.bin").write_bytes(b"a\0b")
    (folder / "empty.txt").write_text("")
    (folder / ".hidden").write_text("secret")
    corpus = open_quietly(folder)
    assert corpus.skipped == 2
    assert sorted(documents(corpus)) == sorted(texts.values())


def test_the_standard_library_is_its_sources() -> None:
    corpus = open_quietly("stdlib")
    texts = documents(corpus)
    source = Path(sysconfig.get_path("stdlib"), "random.py").read_text(encoding="utf-8")
    assert source in texts
    assert len(texts) > 400
    assert not any(text.startswith('"""Tests for ') for text in texts)


def test_tokens_are_written_once_and_again_when_the_source_changed(text_file: Path, cache: Path) -> None:
    first = open_quietly(text_file)
    (written,) = cache.glob("*/*/tokens.bin")
    stamp = written.stat().st_mtime_ns
    assert open_quietly(text_file).fingerprint == first.fingerprint
    assert written.stat().st_mtime_ns == stamp

    text_file.write_text("other words. " * 50, encoding="utf-8")
    second = open_quietly(text_file)
    assert documents(second) == ["other words. " * 50]
    assert second.fingerprint != first.fingerprint
    assert len(list(cache.glob("*/*"))) == 1  # the old tokens are gone
    assert documents(first)[0].startswith(("memory", "holds", "what", "was", "written", "añil", "雪"))


@pytest.mark.parametrize("damage", ["cut", "header"])
def test_a_damaged_file_of_tokens_is_written_again(text_file: Path, cache: Path, damage: str) -> None:
    whole = open_quietly(text_file).tokens.tolist()
    (folder,) = cache.glob("*/*")
    name = "tokens.bin" if damage == "cut" else "header.json"
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    assert open_quietly(text_file).tokens.tolist() == whole


def test_an_interrupted_build_leaves_nothing(text_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ByteTokenizer):
        def encode(self, text: str) -> np.ndarray:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_corpus(str(text_file), Interrupted(), progress=False)
    assert not list(cache.glob("*/*"))


def test_large_vocabularies_need_wider_tokens(text_file: Path) -> None:
    class Large(ByteTokenizer):
        vocabulary = 70001
        end_of_document = 70000
        fingerprint = "large"

    corpus = open_corpus(str(text_file), Large(), progress=False)
    assert corpus.tokens.dtype == np.uint32
    assert corpus.tokens[-1] == 70000


def test_data_that_cannot_be_used_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: Path, message: str) -> None:
        with pytest.raises(DataError, match=re.escape(message)):
            open_quietly(source)

    refused(
        tmp_path / "nowhere",
        f"there is no data at {tmp_path}/nowhere. Give a text file, a folder of text files,",
    )

    (tmp_path / "empty.txt").write_text("")
    refused(tmp_path / "empty.txt", "empty.txt is empty. Give a file with text in it.")

    (tmp_path / "latin.txt").write_bytes("caña".encode("latin1"))
    refused(tmp_path / "latin.txt", "latin.txt is not UTF-8 text: byte 2 is 0xf1 (invalid continuation byte)")

    (tmp_path / "bare").mkdir()
    refused(tmp_path / "bare", "bare holds no files")

    (tmp_path / "pictures").mkdir()
    for i in range(3):
        (tmp_path / "pictures" / f"{i}.png").write_bytes(b"\xff\xfe")
    refused(tmp_path / "pictures", "pictures holds no text; 3 binary or non-UTF-8 files were skipped")

    def locked(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    (tmp_path / "locked.txt").write_text("text")
    monkeypatch.setattr(Path, "read_bytes", locked)
    refused(tmp_path / "locked.txt", "locked.txt cannot be read: Permission denied. Check its permissions.")
