"""What a person sees while a run is under way: a bar with loss, speed and time left, and a line per
evaluation.
"""

from __future__ import annotations

import sys
from typing import Any

from mnemos.train.config import TrainConfig


class Bar:
    """A progress bar over steps or, where the run is limited by minutes, over seconds.

    Without a terminal (a log file) only the evaluations are printed.
    """

    def __init__(self, config: TrainConfig, step: int, seconds: float, *, shown: bool):
        from tqdm import tqdm

        self._by_time = config.minutes is not None
        total = config.steps if config.minutes is None else round(60 * config.minutes)
        start = round(seconds) if self._by_time else step
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        steps = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}{postfix}"
        self._shown = shown
        self._bar = tqdm(
            total=total,
            initial=start,
            desc=str(config.out),
            bar_format=form if self._by_time else steps,
            disable=not shown or not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, seconds: float, record: dict[str, Any]) -> None:
        """One step further."""
        to = min(int(seconds), self._bar.total) if self._by_time else record["step"]
        postfix = (
            f"loss {record['loss']:.3f}, {record['bits_per_byte']:.3f} bits/byte, "
            f"{record['tokens_per_second']:,.0f} tokens/s"
        )
        self._bar.set_postfix_str(postfix, refresh=False)
        self._bar.update(to - self._bar.n)

    def evaluated(self, step: int, measured: dict[str, Any]) -> None:
        """Print an evaluation above the bar."""
        if self._shown:
            loss, bits = measured["loss"], measured["bits_per_byte"]
            self._bar.write(f"step {step}: held-out loss {loss:.4f}, {bits:.4f} bits/byte", file=sys.stderr)
