from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

from mnemos.errors import DataError
from mnemos.train import ByteTokenizer, Tokenizer, load_tokenizer, make_tokenizer

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(params=["bytes", "subwords"])
def tokenizer(request: pytest.FixtureRequest, subword_file: Path) -> Tokenizer:
    return make_tokenizer("bytes" if request.param == "bytes" else str(subword_file))


def random_texts() -> list[str]:
    choose = random.Random(7)
    ranges = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFD), (0x1F300, 0x1FAFF)]
    texts = ["", "the memory of snow", "añil 雪 🎉", "a\r\n\tb\0c"]
    return texts + ["".join(chr(choose.randint(*choose.choice(ranges))) for _ in range(40)) for _ in range(30)]


def test_every_text_survives(tokenizer: Tokenizer) -> None:
    for text in random_texts():
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int64
        assert ids.size == 0 or 0 <= ids.min() <= ids.max() < tokenizer.end_of_document
        assert tokenizer.decode(ids.tolist()) == text


def test_end_of_document_is_the_last_id_and_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocabulary == tokenizer.end_of_document + 1
    assert tokenizer.decode([*tokenizer.encode("a").tolist(), tokenizer.end_of_document]) == "a"


def test_pieces_are_the_text_as_soon_as_it_is_certain(tokenizer: Tokenizer) -> None:
    choose = random.Random(3)
    for text in random_texts():
        assert "".join(tokenizer.pieces(tokenizer.encode(text).tolist())) == text
    for _ in range(20):  # broken sequences of bytes too
        ids = [choose.randrange(tokenizer.vocabulary) for _ in range(30)]
        assert "".join(tokenizer.pieces(ids)) == tokenizer.decode(ids)
    assert list(ByteTokenizer().pieces("aé".encode())) == ["a", "", "é", ""]


def test_bytes_are_bytes() -> None:
    assert ByteTokenizer().encode("é").tolist() == [0xC3, 0xA9]
    assert ByteTokenizer().vocabulary == 257
    assert ByteTokenizer().decode([0x61, 0xFF, 0x62, 0xC3]) == "a�b�"


def test_a_file_keeps_its_tokens_and_nothing_else(subword_file: Path) -> None:
    tokenizer = make_tokenizer(str(subword_file))
    ids = tokenizer.encode("the memory holds the memory of the snow")
    assert 5 < len(ids) < 39  # neither truncated nor bytes
    assert ids[0] != tokenizer.encode("<s>")[0]
    assert tokenizer.vocabulary == tokenizers.Tokenizer.from_file(str(subword_file)).get_vocab_size() + 1


def test_a_tokenizer_is_saved_with_what_was_trained_on_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("the snow").tolist() == tokenizer.encode("the snow").tolist()


def test_fingerprints_tell_tokenizers_apart(subword_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(subword_file.read_text().replace("5", "6"), encoding="utf-8")
    prints = {make_tokenizer(name).fingerprint for name in ("bytes", str(subword_file), str(other))}
    assert len(prints) == 3


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("there is no tokenizer at byte. Write 'bytes', or the path of a")):
        make_tokenizer("byte")
    bad = tmp_path / "bad.json"
    bad.write_text('{"version": "1.0"}')
    with pytest.raises(DataError, match=r"bad\.json is not a file of the tokenizers library"):
        make_tokenizer(str(bad))
