"""`mnemos train`."""

from __future__ import annotations

from mnemos.train import TrainConfig, train


def command(run: TrainConfig, *, quiet: bool = False) -> None:
    """Train a language model on a text, or go on with the run that the folder holds.

    The folder --out gets the configuration, a line of measurements per step (metrics.jsonl) and checkpoints.
    Stop with Ctrl-C or kill it: the same command goes on from the last checkpoint, and a run limited by
    --steps then gives the same numbers as one that was never stopped.

    For example:

      mnemos train --system gated_deltanet --data stdlib --out runs/first --minutes 10

      mnemos train --system linear_attention --data book.txt --out runs/book --steps 2000 --width 128 --depth
      2

      mnemos train --system mymodel.py --data texts/ --out runs/mine --steps 5000 --documents separate
      --initial-state carried

    A model trained on windows that all begin with an empty memory may fail where it reads on beyond their length;
    --initial-state passed --fresh-rows 0.5 is for that.

    Args:
        run: What to train, on what, for how long.
        quiet: Show no progress bar and no messages; errors are still printed.
    """
    result = train(run, progress=not quiet)
    if result.finished and not quiet:
        print(f"{result.folder}: {result.step} steps, {result.bits_per_byte:.4f} bits per byte held out.")
        print(f'Try it: mnemos generate {result.folder} --prompt "..." --length 300')
