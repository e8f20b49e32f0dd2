"""What retention policies keep of a trained model's ability, and what they cost, beside kvpress.

    python benchmarks/policies.py [--seeds 5] [--steps 300] [--only abilities|costs]

Makes an environment of its own (.venv-kvpress, because kvpress wants an older transformers) and goes on there.
The task has tokens that recur after long gaps: things are named once, and each is asked for up to three times, 32 to 64
tokens apart, among tokens that mean nothing. Small Llama models learn it with full attention; then the same weights
answer with less.

- stream: token by token, every budget as a share of the sequence.
- prompt: half of the sequence is read whole and cut to a share, the rest is all kept, as kvpress does.
- costs: a larger model with random weights; prompt and tokens, alternately timed.

Writes benchmarks/results/policies.json and policies.png.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "policies.json"
ENVIRONMENT = ROOT / ".venv-kvpress"

CLASSES, MEMBERS, FILLERS, LENGTH = 12, 8, 32, 256
VOCABULARY = CLASSES * MEMBERS + CLASSES + FILLERS
SHARES = (1.0, 0.75, 0.5, 0.25, 0.125, 0.0625)

PREDICTED = {
    "stream, 50 %": "policies that look at the weights within 2 points of full attention; recency, chance far below",
    "stream, 6 %": "LazyEviction and LRA above H2O and LFA, which cling to what is no longer asked for; TOVA below",
    "prompt": "each as its press: within 3 points",
    "costs": "prompt 1.5 times the press's time (weights in blocks), a token 1.5 times; half the bytes of all entries",
}


def in_own_environment() -> None:
    """Go on in an environment that has kvpress; make it first where there is none."""
    try:
        import kvpress  # noqa: F401
    except ImportError:
        python = ENVIRONMENT / "bin" / "python"
        if not python.exists():
            venv.create(ENVIRONMENT, with_pip=True)
            torch = os.environ.get("TORCH", "torch==2.13.0")
            for what in ([torch], ["kvpress>=0.5.4"], ["-e", f"{ROOT}[report]"]):
                subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True)
        os.execv(python, [str(python), *sys.argv])


def sequences(number: int, generator: Any) -> tuple[Any, Any]:
    """Tokens (number, LENGTH), and the answers at questions, -100 elsewhere."""
    import torch

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    ids = torch.randint(VOCABULARY - FILLERS, VOCABULARY, (number, LENGTH), generator=generator)
    labels = torch.full_like(ids, -100)
    for row in range(number):
        taken: set[int] = set()
        for thing in torch.randperm(CLASSES, generator=generator).tolist():
            member, at = below(MEMBERS), below(LENGTH // 2)
            for asked in range(4):
                while at in taken:
                    at += 1
                if at >= LENGTH:
                    break
                taken.add(at)
                ids[row, at] = CLASSES * MEMBERS + thing if asked else thing * MEMBERS + member
                if asked:
                    labels[row, at] = thing * MEMBERS + member
                at += 32 + below(32)
    return ids, labels


def trained(seed: int, steps: int) -> tuple[Any, float]:
    """A small Llama that has learnt the task, and its last loss."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**sizes, intermediate_size=128, vocab_size=VOCABULARY, max_position_embeddings=2 * LENGTH)
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(1000 + seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    loss = torch.zeros(())
    for _ in range(steps):
        ids, labels = sequences(16, generator)
        loss = torch.nn.functional.cross_entropy(model(ids).logits.flatten(0, 1), labels.flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.eval(), float(loss.detach())


def policies(budget: int) -> dict[str, Any]:
    """Ours at a budget of entries a head."""
    from mnemos.memory import (
        HeavyHitters,
        KeyDifference,
        KeyNorm,
        LazyEviction,
        LeastFrequentlyAttended,
        LeastRecentlyAttended,
        Newest,
        Sampled,
    )

    recent, common = max(budget // 4, 1), {"period": 4}
    return {
        "H2O": HeavyHitters(budget, recent=recent, **common),
        "H2O, mean": HeavyHitters(budget, recent=recent, mean=True, **common),
        "TOVA": HeavyHitters(budget, recent=1, decay=0.0, **common),
        "LazyEviction": LazyEviction(budget, recent=recent, threshold=0.05, **common),
        "LRA": LeastRecentlyAttended(budget, recent=recent, threshold=0.05, **common),
        "LFA": LeastFrequentlyAttended(budget, recent=recent, threshold=0.05, **common),
        "key difference": KeyDifference(budget, recent=recent, **common),
        "key norm": KeyNorm(budget, recent=recent, **common),
        "sinks and recency": Newest(budget, sinks=min(4, budget - 1), **common),
        "chance": Sampled(budget, recent=recent, **common),
    }


def presses(removed: float) -> dict[str, tuple[Any, str]]:
    """kvpress's by the name of ours, and the attention that it needs."""
    import kvpress

    return {
        "H2O": (kvpress.ObservedAttentionPress(removed), "eager"),
        "H2O, mean": (kvpress.ObservedAttentionPress(removed), "eager"),  # by which it ranks
        "TOVA": (kvpress.TOVAPress(removed), "sdpa"),
        "key difference": (kvpress.KeyDiffPress(removed), "sdpa"),
        "key norm": (kvpress.KnormPress(removed), "sdpa"),
        "sinks and recency": (kvpress.StreamingLLMPress(removed), "sdpa"),
        "chance": (kvpress.RandomPress(removed, seed=0), "sdpa"),
    }


def accuracy(logits: Any, labels: Any) -> float:
    asked = labels >= 0
    return float((logits.argmax(-1) == labels)[asked].float().mean())


def answers(model: Any, ids: Any, prompt: int, cache: Any, read: Callable[[], Any] | None = None) -> Any:
    """Logits: the prompt at once, the rest token by token."""
    import torch

    found = [model(ids[:, :prompt], past_key_values=cache).logits if read is None else read()]
    for t in range(prompt, ids.shape[1]):
        position = torch.full((ids.shape[0], 1), t)
        found.append(model(ids[:, t : t + 1], past_key_values=cache, position_ids=position).logits)
    return torch.cat(found, 1)


def pressed(model: Any, ids: Any, prompt: int, press: Any, cache: Any) -> Any:
    def read() -> Any:
        with press(model):
            return model(ids[:, :prompt], past_key_values=cache).logits

    return answers(model, ids, prompt, cache, read)


def held(cache: Any) -> int:
    """Bytes of a stock cache."""
    return sum(x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values))


def of_a_seed(seed: int, steps: int) -> Iterator[dict[str, Any]]:
    """What one model's policies come to."""
    import torch
    from transformers import DynamicCache

    from mnemos.hf import PolicyCache

    model, loss = trained(seed, steps)
    ids, labels = sequences(16, torch.Generator().manual_seed(seed))
    half = LENGTH // 2
    with torch.no_grad():
        full = accuracy(model(ids).logits, labels)
        yield {"part": "stream", "seed": seed, "policy": "full attention", "share": 1.0, "accuracy": full, "loss": loss}
        for share in SHARES:
            model.set_attn_implementation("mnemos")
            for name, policy in policies(max(int(share * LENGTH), 4)).items():
                cache = PolicyCache(model.config, policy)
                found = accuracy(model(ids, past_key_values=cache).logits, labels)
                row = {"part": "stream", "seed": seed, "policy": name, "share": share, "accuracy": found}
                yield row | {"bytes": cache.nbytes}
        for share in SHARES[1:4]:
            for name, (press, needs) in presses(1 - share).items():
                model.set_attn_implementation(needs)
                cache = DynamicCache(config=model.config)
                theirs = pressed(model, ids, half, press, cache)
                model.set_attn_implementation("mnemos")
                own = PolicyCache(model.config, policies(int(share * half))[name], "whole", decode="grow")
                ours = answers(model, ids, half, own)
                row = {"part": "prompt", "seed": seed, "policy": name, "share": share, "bytes": own.nbytes}
                row |= {"accuracy": accuracy(ours[:, half:], labels[:, half:])}
                yield row | {"kvpress": accuracy(theirs[:, half:], labels[:, half:]), "kvpress bytes": held(cache)}


def costs(repeats: int) -> Iterator[dict[str, Any]]:
    """A prompt of 1024 cut to half, then 32 tokens, in milliseconds of one thread: ours, kvpress, the stock cache."""
    import torch
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    from mnemos.hf import PolicyCache

    sizes = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=1024, vocab_size=1000)).eval()
    ids = torch.randint(1000, (1, 1056))

    def timed(attention: str, cache: Any, press: Any = None) -> tuple[float, float, int]:
        model.set_attn_implementation(attention)
        start = time.process_time()
        if press is None:
            model(ids[:, :1024], past_key_values=cache)
        else:
            with press(model):
                model(ids[:, :1024], past_key_values=cache)
        middle = time.process_time()
        for t in range(1024, 1056):
            model(ids[:, t : t + 1], past_key_values=cache, position_ids=torch.tensor([[t]]))
        end = time.process_time()
        size = cache.nbytes if isinstance(cache, PolicyCache) else held(cache)
        return 1e3 * (middle - start), 1e3 * (end - middle) / 32, size

    sides: dict[str, Callable[[], tuple[float, float, int]]] = {
        "stock cache": lambda: timed("sdpa", DynamicCache(config=model.config))
    }
    for name, (press, needs) in presses(0.5).items():
        sides[f"{name}, kvpress"] = lambda press=press, needs=needs: timed(
            needs, DynamicCache(config=model.config), press
        )
        policy = policies(512)[name].replace(period=1)
        sides[name] = lambda policy=policy: timed("mnemos", PolicyCache(model.config, policy, "whole"))
    with torch.no_grad():
        taken: dict[str, list[tuple[float, float, int]]] = {name: [run()] for name, run in sides.items()}  # warm
        for _ in range(repeats):
            for name, run in sides.items():
                taken[name].append(run())
    for name, all_of in taken.items():
        prompts, steps, sizes_held = zip(*all_of[1:], strict=True)
        row = {"part": "costs", "policy": name, "prompt ms": statistics.median(prompts), "bytes": sizes_held[0]}
        yield row | {"token ms": statistics.median(steps)}


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy by share, the mean over seeds with all of them as dots; beside it kvpress's on the cut prompt."""
    import matplotlib.pyplot as plt

    from mnemos.evaluate.pictures import STYLE

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
        for part, drawn, title in (
            ("stream", axes[0], "token by token"),
            ("prompt", axes[1], "prompt cut once; kvpress dashed"),
        ):
            names = list(dict.fromkeys(r["policy"] for r in rows if r["part"] == part and r["policy"] in policies(64)))
            for name in names:
                colour = f"C{list(policies(64)).index(name)}"
                for key, line in (("accuracy", "-"), ("kvpress", "--")):
                    mine = [r for r in rows if r["part"] == part and r["policy"] == name and key in r]
                    shares = sorted({r["share"] for r in mine})
                    if not shares:
                        continue
                    means = [statistics.mean(r[key] for r in mine if r["share"] == s) for s in shares]
                    label = name if key == "accuracy" and part == "stream" else None
                    drawn.plot(shares, means, line, color=colour, label=label)
                    if key == "accuracy":
                        drawn.plot([r["share"] for r in mine], [r[key] for r in mine], ".", color=colour, markersize=3)
            drawn.set(xscale="log", xlabel="share of the entries that is kept", title=title)
            drawn.set_xticks(SHARES, [f"{100 * s:g} %" for s in SHARES])
            drawn.minorticks_off()
        axes[0].set_ylabel("answers right")
        figure.legend(loc="outside right", frameon=False)
        figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("abilities", "costs"), help="measure these, keep the others as they were")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    in_own_environment()
    import torch
    import transformers

    torch.set_num_threads(1)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "kvpress": version("kvpress")}
    rows: list[dict[str, Any]] = []
    if given.only and given.results.exists():
        old = json.loads(given.results.read_text())["rows"]
        rows = [row for row in old if (row["part"] == "costs") != (given.only == "costs")]
    measured = [of_a_seed(seed, given.steps) for seed in range(given.seeds) if given.only != "costs"]
    measured += [costs(given.repeats)] if given.only != "abilities" else []
    for part in measured:
        for row in part:
            rows.append(row)
            print(json.dumps(row), flush=True)
        record = {"predicted": PREDICTED, "versions": versions, "steps": given.steps, "rows": rows}
        given.results.write_text(json.dumps(record, indent=1) + "\n")
    picture(rows, given.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
