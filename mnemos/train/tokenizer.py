"""Text to token ids and back: bytes by default, or any file that the `tokenizers` library wrote.

Every tokenizer here has one id of its own, after all others, that ends a document; it stands for no text.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mnemos.errors import DataError, RunError


class Tokenizer(Protocol):
    """What training and generation need of a tokenizer.

    vocabulary: how many ids there are. end_of_document: the id that ends a document. fingerprint: equal for
    two tokenizers only if they give the same ids.
    """

    vocabulary: int
    end_of_document: int
    fingerprint: str

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, a vector of int64, with nothing added before or after."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; the end of a document gives no text, a broken sequence of bytes gives U+FFFD."""
        ...

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of `ids` one piece per id, as soon as it is certain; joined, the pieces are the whole
        text.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write what `load_tokenizer` needs into `folder`."""
        ...


class ByteTokenizer:
    """One id per UTF-8 byte, 0 to 255, and 256 for the end of a document."""

    vocabulary = 257
    end_of_document = 256
    fingerprint = "bytes-257"

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i for i in ids if i != self.end_of_document).decode("utf-8", errors="replace")

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for i in ids:
            yield "" if i == self.end_of_document else decoder.decode(bytes([i]))
        yield decoder.decode(b"", final=True)

    def save(self, folder: Path) -> None:
        """Nothing to write: a folder without a tokenizer file holds bytes."""


class FileTokenizer:
    """A tokenizer of the `tokenizers` library, read from its JSON text.

    Truncation, padding and special tokens around the text are left out: a document is exactly its own tokens.
    """

    def __init__(self, json_text: str):
        self._tokenizer: Any = _library().Tokenizer.from_str(json_text)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._json_text = json_text
        self.end_of_document: int = max(self._tokenizer.get_vocab().values()) + 1
        self.vocabulary: int = self.end_of_document + 1
        self.fingerprint = hashlib.sha256(json_text.encode("utf-8")).hexdigest()[:32]

    def encode(self, text: str) -> np.ndarray:
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode([i for i in ids if i != self.end_of_document], skip_special_tokens=False)

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        # Whether an id's text is certain depends on its neighbours, so a short tail is decoded again each
        # time.
        before: list[int] = []  # already shown
        pending: list[int] = []
        for i in ids:
            pending.append(i)
            text = self.decode(before + pending)[len(self.decode(before)) :]
            if text.endswith("�"):
                yield ""
                continue
            yield text
            before, pending = pending, []
        yield self.decode(before + pending)[len(self.decode(before)) :]

    def save(self, folder: Path) -> None:
        (folder / TOKENIZER_FILE).write_text(self._json_text, encoding="utf-8")


TOKENIZER_FILE = "tokenizer.json"


def make_tokenizer(choice: str) -> Tokenizer:
    """The tokenizer that a configuration names: the word `bytes`, or the path of a `tokenizers` JSON file.

    Raises DataError if the file is missing or is no tokenizer.
    """
    if choice == "bytes":
        return ByteTokenizer()
    path = Path(choice)
    if not path.is_file():
        raise DataError(f"there is no tokenizer at {choice}. Write 'bytes', or the path of a tokenizer.json file.")
    _library()
    try:
        return FileTokenizer(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exception for anything wrong in the file
        raise DataError(f"{choice} is not a file of the tokenizers library: {error}.") from error


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer saved with a checkpoint in `folder`: its tokenizer file, or bytes where there is none."""
    path = folder / TOKENIZER_FILE
    return make_tokenizer(str(path)) if path.is_file() else ByteTokenizer()


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise RunError(
            "this needs the tokenizers library, which is not installed. Install it with "
            "`pip install 'mnemos[tokenizers]'`, or train on bytes, which need nothing."
        ) from error
    return tokenizers
