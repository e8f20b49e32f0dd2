"""The text to learn from, as one file of token ids on disk that is written once and then only mapped into
memory.

    documents to learn from ... | held-out documents ...        every document ends with the end-of-document
    id

Everything before `Corpus.split` is for training, everything after it is held out. A document is held out by
the hash of its name, about one in twenty, so that adding files moves no other file across. Where that would
hold out less than 1 % or more than 20 % (few documents), the last 5 % of all tokens are held out instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mnemos.errors import DataError
from mnemos.tasks.text import decode, list_files, nothing_left, read_file
from mnemos.train.tokenizer import Tokenizer

FORMAT = 1
HELD_OUT = 0.05
TOKENS, HEADER = "tokens.bin", "header.json"


@dataclass(frozen=True)
class Header:
    """What is known of a file of tokens: how to read it, what it was made from, and where its documents
    begin.
    """

    format: int
    source: str
    source_fingerprint: str
    tokenizer_fingerprint: str
    content_fingerprint: str
    dtype: str
    tokens: int
    bytes: int
    split: int
    skipped: int
    documents: list[int]


@dataclass(frozen=True)
class Corpus:
    """Token ids mapped from disk, and where they are split.

    tokens: (total,) uint16 or uint32. split: tokens before it are for training. starts: the position of each
    document's first token, ascending. bytes_per_token: UTF-8 bytes of text over tokens, of the whole corpus;
    turns a loss per token into bits per byte. fingerprint: equal for two corpora only if they hold the same
    tokens and split.
    """

    tokens: np.ndarray
    split: int
    starts: np.ndarray
    bytes_per_token: float
    fingerprint: str
    skipped: int = 0

    @property
    def training(self) -> np.ndarray:
        """The tokens to learn from."""
        return self.tokens[: self.split]

    @property
    def held_out(self) -> np.ndarray:
        """The tokens that no training window contains."""
        return self.tokens[self.split :]

    def bits_per_byte(self, loss: float) -> float:
        """Bits per byte of text for a mean `loss` in nats per token."""
        return loss / float(np.log(2)) / self.bytes_per_token


def open_corpus(source: str, tokenizer: Tokenizer, *, progress: bool = True) -> Corpus:
    """The corpus of `source`, tokenised now or, if neither source nor tokenizer changed, at an earlier time.

    source: a UTF-8 text file, a folder (every text file in it, at any depth, in the order of the names;
    hidden files are left out, binary files skipped and counted), or the word `stdlib` (the sources of
    Python's standard library). Raises DataError if the source is missing, cannot be read, is no UTF-8 text or
    holds no text.
    """
    files = list_files(source)
    fingerprint = _fingerprint(files, source)
    place = _place(source, tokenizer)
    folder = place / fingerprint
    header = _read_header(folder)
    if header is None:
        place.mkdir(parents=True, exist_ok=True)
        header = _build(source, files, tokenizer, fingerprint, folder, progress)
        for stale in place.iterdir():
            # An older version of the same text. A run that still maps it keeps its pages until it ends.
            if stale.name != fingerprint and not stale.name.startswith("."):
                shutil.rmtree(stale, ignore_errors=True)
    return Corpus(
        tokens=np.memmap(folder / TOKENS, dtype=header.dtype, mode="r"),
        split=header.split,
        starts=np.asarray(header.documents, dtype=np.int64),
        bytes_per_token=header.bytes / header.tokens,
        fingerprint=header.content_fingerprint,
        skipped=header.skipped,
    )


def cache_folder() -> Path:
    """Where tokenised text is kept: `mnemos/corpora` in the user's cache folder (XDG_CACHE_HOME, or
    ~/.cache).
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnemos" / "corpora"


def _place(source: str, tokenizer: Tokenizer) -> Path:
    where = source if source == "stdlib" else str(Path(source).resolve())
    key = hashlib.sha256(f"{where}\0{tokenizer.fingerprint}".encode()).hexdigest()[:16]
    return cache_folder() / f"{Path(where).stem or 'root'}-{key}"


def _fingerprint(files: list[tuple[str, Path]], source: str) -> str:
    digest = hashlib.sha256(f"format {FORMAT}".encode())
    for name, path in files:
        try:
            facts = path.stat()
        except OSError as error:
            raise DataError(f"{path} (of the data {source}) cannot be read: {error.strerror}.") from error
        digest.update(f"\0{name}\0{facts.st_size}\0{facts.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _read_header(folder: Path) -> Header | None:
    """The header of a finished file of tokens, or None where there is none that can be used."""
    try:
        header = Header(**json.loads((folder / HEADER).read_text(encoding="utf-8")))
        size = (folder / TOKENS).stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    return header if size == header.tokens * np.dtype(header.dtype).itemsize else None


def _build(
    source: str,
    files: list[tuple[str, Path]],
    tokenizer: Tokenizer,
    fingerprint: str,
    folder: Path,
    progress: bool,
) -> Header:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{time.monotonic_ns()}")
    temporary.mkdir()
    try:
        header = _write(source, files, tokenizer, fingerprint, temporary, progress)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        try:
            temporary.rename(folder)
        except OSError:
            if _read_header(folder) is None:  # otherwise another process was faster with the same text
                raise
        return header
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(
    source: str,
    files: list[tuple[str, Path]],
    tokenizer: Tokenizer,
    fingerprint: str,
    folder: Path,
    progress: bool,
) -> Header:
    from tqdm import tqdm

    dtype = np.dtype("uint16" if tokenizer.vocabulary <= 1 << 16 else "uint32")
    single = source != "stdlib" and Path(source).is_file()
    to_learn = [f for f in files if not _is_held_out(f[0])]
    to_hold_out = [f for f in files if _is_held_out(f[0])]
    starts: list[int] = []
    tokens = text_bytes = skipped = split = 0
    content = hashlib.sha256()
    total = sum(path.stat().st_size for _, path in files)
    with (
        open(folder / TOKENS, "wb") as out,
        tqdm(total=total, desc="reading text", unit="B", unit_scale=True, delay=1.0, disable=not progress) as bar,
    ):
        for group in (to_learn, to_hold_out):
            split = tokens
            for _, path in group:
                data = read_file(path)
                bar.update(len(data))
                text = decode(data, path, single=single)
                if text is None:
                    skipped += 1
                elif text:
                    ids = np.append(tokenizer.encode(text), tokenizer.end_of_document).astype(dtype)
                    starts.append(tokens)
                    tokens += len(ids)
                    text_bytes += len(data)
                    content.update(ids.tobytes())
                    ids.tofile(out)
        out.flush()
        os.fsync(out.fileno())
    if tokens == 0:
        raise nothing_left(source, skipped, single=single)
    if not 0.01 <= (tokens - split) / tokens <= 0.2:
        split = tokens - round(tokens * HELD_OUT)
    content.update(f"split {split} starts {starts}".encode())
    header = Header(
        format=FORMAT,
        source=source,
        source_fingerprint=fingerprint,
        tokenizer_fingerprint=tokenizer.fingerprint,
        content_fingerprint=content.hexdigest()[:32],
        dtype=dtype.name,
        tokens=tokens,
        bytes=text_bytes,
        split=split,
        skipped=skipped,
        documents=starts,
    )
    (folder / HEADER).write_text(json.dumps(asdict(header)), encoding="utf-8")
    return header


def _is_held_out(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]) < HELD_OUT * 2**64
