"""C++ beside the PyTorch code: made into a library by the machine's own compiler, once for each processor."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

COMPILERS = ("c++", "g++", "clang++")
FOR_THIS_PROCESSOR = (["-march=native", "-mprefer-vector-width=512"], ["-march=native"], ["-mcpu=native"], [])
"""The first of these that the compiler takes."""
PATIENCE = 300
"""Seconds that a compiler may take."""


@functools.cache
def library(name: str, real: str) -> ctypes.CDLL | str:
    """What NAME.cpp beside this file compiles to with numbers of the type `real`, "float" or "double"; or why this
    machine has no such library.

    Compiled on first use, into the user's cache, for the processor that it runs on. Takes about ten seconds then and
    says so on stderr.
    """
    source = Path(__file__).with_name(f"{name}.cpp")
    made = f"{name}-{real}-{hashlib.sha256(source.read_bytes() + _processor().encode()).hexdigest()[:16]}.so"
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    try:
        target = _cache() / made
        if not target.exists():
            if compiler is None:
                return "it needs a C++ compiler, and none is found (c++, g++ or clang++)"
            print(f"mnemos: compiling {source.name} for this processor, once ...", file=sys.stderr, flush=True)
            failure = _compile(compiler, source, real, target)
            if failure is not None:
                return failure
        return ctypes.CDLL(str(target))
    except OSError as error:
        return f"its library cannot be made or loaded: {error}"


def _compile(compiler: str, source: Path, real: str, target: Path) -> str | None:
    """Why it failed; None if `target` is there, whole."""
    said = ""
    for processor in FOR_THIS_PROCESSOR:
        handle, part = tempfile.mkstemp(suffix=".so", dir=target.parent)
        os.close(handle)
        flags = ["-std=c++17", "-O3", "-fno-math-errno", "-shared", "-fPIC", "-pthread", f"-DREAL={real}"]
        try:
            command = [compiler, *flags, *processor, str(source), "-o", part]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
            if done.returncode == 0:
                os.replace(part, target)
                return None
            said = done.stderr.strip()
        except subprocess.TimeoutExpired:
            return f"{compiler} did not compile it within {PATIENCE} seconds"
        finally:
            Path(part).unlink(missing_ok=True)
    wrong = next((line for line in said.splitlines() if "error" in line), said[:200])
    return f"{compiler} cannot compile it: {wrong}"


def _cache() -> Path:
    """A folder for libraries that outlives the process, or one of the process where the user has none to write to."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(home) / "mnemos"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return _of_this_process()


@functools.cache
def _of_this_process() -> Path:
    return Path(tempfile.mkdtemp(prefix="mnemos-"))


def _processor() -> str:
    """What code compiled for this processor may rely upon; homes are shared between machines."""
    told = [platform.system(), platform.machine(), torch.backends.cpu.get_cpu_capability()]
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        kinds = ("model name", "flags", "Features")
        told += sorted({line for line in facts.read_text().splitlines() if line.startswith(kinds)})
    return "\n".join(told)
