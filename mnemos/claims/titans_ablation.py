"""What each part of Titans' memory is worth."""

from __future__ import annotations

from pathlib import Path

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, difference, over_seeds
from mnemos.claims.processes import over_processes
from mnemos.evaluate.bits_per_byte import bits_per_byte
from mnemos.layers import LayerSpec
from mnemos.memory import Memory
from mnemos.train import TrainConfig, load_model, make_tokenizer, open_corpus, train

LENGTH = 256
FULL, NO_DECAY, NO_MOMENTUM, LINEAR = "Titans", "without decay", "without momentum", "with a linear memory"


@claim(
    title="Decay, momentum and depth each help Titans' memory",
    arxiv=("2501.00663",),
    where="the ablation study, table 5",
    sentence="Every component of the neural memory contributes: without weight decay, without momentum, or with a "
    "linear in place of a deep memory, perplexity is worse; most with weight decay, then momentum, then the rest.",
    setting="Byte models of two layers, 32 channels and two heads, their memories of two layers with gradients once "
    "in 16 tokens, 1,200 steps of 4 windows of 256 bytes of Python's standard library; bits per byte in held-out "
    "windows of that length. Each part is left out in training as well, with all else equal. After 400 steps, "
    "measured first, every part cost 0.15 to 0.20 bits: what is simpler learns sooner. So it was measured again with "
    "three times as many.",
    refuted_if="the bits per byte are no more without decay, without momentum, or with a linear memory.",
    shrinks="The paper trains 340 million parameters or more on windows of 4,096 tokens, beyond the reach of what "
    "one forgets here; it also ablates the convolution and the persistent tokens.",
    minutes=15,
)
def titans_ablation(bench: Bench) -> Findings:
    cases = [(name, seed) for name in VARIANTS for seed in range(bench.seeds)]
    sizes = (bench.size(1200, 8000, 2), bench.size(131072, 1 << 20, 1024))
    calls = [(bench.folder / f"{name.replace(' ', '-')}-{seed}", name, seed, *sizes) for name, seed in cases]
    found = dict(zip(cases, over_processes(bench, bits, calls), strict=True))
    by_seed = {name: [found[name, seed] for seed in range(bench.seeds)] for name in VARIANTS}
    return Findings(
        statements=tuple(
            Statement(f"bits per byte {name} minus in full", difference(by_seed[name], by_seed[FULL]))
            for name in list(VARIANTS)[1:]
        ),
        panels=(
            Panel(
                "Held-out text beyond Titans in full",
                "",
                "bits per byte",
                tuple(Line(name, (0.0,), (difference(by_seed[name], by_seed[FULL]),)) for name in list(VARIANTS)[1:]),
            ),
        ),
        note=f"Titans in full needs {over_seeds(by_seed[FULL]).mean:.3f} bits per byte.",
    )


def without(part: str) -> LayerSpec:
    """Titans' layer without its decay or its momentum."""
    layer = mn.zoo.titans_lmm()
    memory = layer.memory
    assert isinstance(memory, Memory) and isinstance(memory.learner, mn.GD)
    memory = (
        memory.replace(retention=mn.Keep())
        if part == "decay"
        else memory.replace(learner=memory.learner.replace(momentum=False))
    )
    return layer.replace(memory=memory, controls=tuple((name, rule) for name, rule in layer.controls if name != part))


VARIANTS = {
    FULL: mn.zoo.titans_lmm(),
    NO_DECAY: without("decay"),
    NO_MOMENTUM: without("momentum"),
    LINEAR: mn.zoo.titans_lmm(depth=1),
}


def bits(call: tuple[Path, str, int, int, int]) -> float:
    """Train into the folder, or go on there, and measure: folder, variant, seed, steps, held-out bytes."""
    out, name, seed, steps, tokens = call
    file = out.with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(mn.ModelSpec((VARIANTS[name],), width=32, depth=2, heads=2).to_json(), encoding="utf-8")
    config = TrainConfig(
        system=str(file),
        data="stdlib",
        out=out,
        steps=steps,
        length=LENGTH,
        batch=4,
        seed=seed,
        threads=1,
        evaluate_every=10**6,
        evaluate_tokens=1024,
    )
    train(config, progress=False)
    corpus = open_corpus(config.data, make_tokenizer(config.tokenizer), progress=False)
    return bits_per_byte(load_model(out), corpus, length=LENGTH, tokens=tokens).value.mean
