"""With what memory a training window begins (arXiv 2507.02782)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_loop import PowerCut, cut_power
from training import measured

import mnemos as mn
from mnemos.errors import InvalidValue, RunError
from mnemos.train import Optimiser, TrainConfig, load_model, read_metrics, train
from mnemos.train.beginnings import beginning
from mnemos.train.loop import Trainer, _settled

Tiny = Callable[..., TrainConfig]
ROWS = 6


def silent(text: str) -> None:
    pass


def a_model(system: Any, **changes: Any) -> mn.LanguageModel:
    pattern = system.pattern if isinstance(system, mn.ModelSpec) else (system,)
    return mn.LanguageModel(mn.ModelSpec(pattern, width=8, depth=2, heads=2, vocabulary=12, **changes))


def states(model: mn.LanguageModel) -> tuple[mn.State, mn.State]:
    """The empty memory, and one that has read 30 tokens."""
    _, last = model(torch.randint(0, 12, (ROWS, 30)))
    return model.init_state(ROWS), _settled(last)


def same(a: mn.State, b: mn.State) -> bool:
    mine, theirs = dict(a.tensors()), dict(b.tensors())
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_without_anything_to_go_on_from_every_kind_is_fresh() -> None:
    empty = a_model(mn.zoo.titans_mag(window=8)).init_state(ROWS)
    for kind in ("fresh", "passed", "noisy", "carried"):
        assert beginning(kind, None, empty, 0.5) is empty


def test_passed_on_empty_states_are_ordinary_training() -> None:
    model = a_model(mn.zoo.gated_deltanet())
    empty = model.init_state(ROWS)
    begun = beginning("passed", _settled(model.init_state(ROWS)), empty, 0.0)
    tokens = torch.randint(0, 12, (ROWS, 20))
    assert torch.equal(model(tokens, begun)[0], model(tokens)[0])


@pytest.mark.parametrize("kind", ["passed", "carried"])
def test_the_last_state_is_taken_over_whole_and_sends_no_gradient(kind: Any) -> None:
    model = a_model(mn.zoo.titans_mag(window=8))
    empty, last = states(model)
    begun = beginning(kind, last, empty, 0.0)
    assert same(begun, last)
    assert not any(tensor.requires_grad for _, tensor in begun.tensors())
    model(torch.randint(0, 12, (ROWS, 20)), begun)[0].square().sum().backward()
    for layer in model.layers():
        assert all(p.grad is None for p in layer.gate.initial.parameters())  # pyright: ignore


def test_a_reset_within_a_window_leads_to_the_present_initial_memory() -> None:
    """Not to the one that the model had when the state was made; and its gradient is taken."""
    model = a_model(mn.zoo.titans_lmm())
    _, last = states(model)
    with torch.no_grad():
        for parameter in model.layers()[0].initial.parameters():  # pyright: ignore
            parameter += 0.1
    begun = beginning("passed", last, model.init_state(ROWS), 0.0)
    tokens = torch.randint(0, 12, (ROWS, 20))
    reset = torch.zeros_like(tokens, dtype=torch.bool)
    reset[:, 5] = True
    logits, _ = model(tokens, begun, reset=reset)
    assert torch.allclose(logits[:, 5:], model(tokens[:, 5:])[0], atol=1e-5)
    logits[:, 5:].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.layers()[0].initial.parameters())  # pyright: ignore


def test_carried_segments_give_the_numbers_of_one_long_reading() -> None:
    model = a_model(mn.zoo.gated_deltanet()).double()
    tokens = torch.randint(0, 12, (ROWS, 40))
    whole, _ = model(tokens)
    state, pieces = None, []
    for begin in range(0, 40, 10):
        state = beginning("carried", state, model.init_state(ROWS), 0.0)
        logits, after = model(tokens[:, begin : begin + 10], state)
        state = _settled(after)
        pieces.append(logits)
    assert torch.allclose(torch.cat(pieces, 1), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_model_that_forgets_everything_predicts_alike_from_any_start(decay: float) -> None:
    """The effective remembrance, how far the prediction from tokens 0 .. T is from that of t .. T, is 0 for t = 0, and
    for every t where nothing is remembered."""
    memory = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(), mn.GD(rate=1.0))
    model = a_model(mn.LayerSpec(memory, controls=(("decay", mn.layers.Constant(decay)),))).double()
    tokens = torch.randint(0, 12, (ROWS, 20))
    with torch.no_grad():
        found = [model(tokens[:, t:])[0][:, -1].softmax(-1) for t in range(20)]
    far = [float((p - found[0]).abs().sum(-1).max()) / 2 for p in found]
    assert far[0] == 0
    if decay:
        assert max(far) > 1e-4
    else:
        assert max(far) < 1e-14


def test_some_rows_begin_afresh_nevertheless_and_only_these() -> None:
    model = a_model(mn.zoo.titans_lmm())
    empty, last = states(model)
    begun = beginning("passed", last, empty, 0.5)
    fresh_rows = 0
    for row in range(ROWS):
        one = torch.tensor([row])
        fresh = same(begun.select(one), empty.select(one))
        assert fresh or same(begun.select(one), last.select(one))
        fresh_rows += fresh
    assert 0 < fresh_rows < ROWS


def test_noise_has_the_mean_and_deviation_of_what_windows_end_with_head_by_head() -> None:
    change = (
        torch.randn(400, 2, 5, 7) * torch.tensor([0.1, 3.0])[:, None, None] + torch.tensor([4.0, -1.0])[:, None, None]
    )
    memory = mn.Memory()
    empty = memory.init(400, 2, 7, 5)
    (name,) = empty.entries
    last = empty.successor(**{name: change})
    drawn = beginning("noisy", last, empty, 0.0)[name]
    assert not torch.equal(drawn, change)
    for head, (mean, deviation) in enumerate([(4.0, 0.1), (-1.0, 3.0)]):
        assert drawn[:, head].mean().item() == pytest.approx(mean, abs=5 * deviation / 14000**0.5 + 0.01 * deviation)
        assert drawn[:, head].std().item() == pytest.approx(deviation, rel=0.05)
    assert drawn[:200].mean((0, 2, 3)).allclose(drawn[200:].mean((0, 2, 3)), atol=0.2)


def test_noise_is_added_to_the_learned_initial_memory_and_spares_what_is_no_memory() -> None:
    model = a_model(mn.zoo.titans_mag(window=8))
    empty, last = states(model)
    begun = dict(beginning("noisy", last, empty, 0.0).tensors())
    noisy = [name for name, tensor in empty.tensors() if not torch.equal(begun[name], tensor)]
    assert noisy
    assert all(".gate.memory." in f".{name}" for name in noisy)  # neither convolutions nor windows of keys and values
    learned = [name for name in noisy if name.endswith(".layer1") and "momentum" not in name and "anchor" not in name]
    assert len(learned) == 2
    assert all(begun[name].requires_grad for name in learned)


KINDS = [{"initial_state": "passed", "fresh_rows": 0.5}, {"initial_state": "noisy", "fresh_rows": 0.25}]
KINDS += [{"initial_state": "carried", "fresh_rows": 0.3, "documents": "separate"}]


@pytest.mark.parametrize("options", KINDS, ids=lambda options: options["initial_state"])
@pytest.mark.parametrize("after", [3, 9])
def test_each_kind_goes_on_bit_by_bit_after_a_power_cut(
    tiny: Tiny, tmp_path: Path, options: dict[str, Any], after: int
) -> None:
    whole = train(tiny(out=tmp_path / "whole", system="titans_lmm", **options), progress=False).folder
    with pytest.MonkeyPatch.context() as patch:
        cut_power(patch, "train_step", after)
        with pytest.raises(PowerCut):
            train(tiny(system="titans_lmm", **options), progress=False)
    assert train(tiny(system="titans_lmm", **options), progress=False).finished
    broken = tiny().out
    assert measured(read_metrics(broken)) == measured(read_metrics(whole))
    for name, tensor in load_model(whole).state_dict().items():
        assert torch.equal(load_model(broken).state_dict()[name], tensor), name


def test_the_kinds_differ_and_only_carried_reads_in_order(tiny: Tiny, tmp_path: Path) -> None:
    losses = {}
    for kind in ("fresh", "passed", "noisy", "carried"):
        run = train(tiny(out=tmp_path / kind, initial_state=kind, documents="joined"), progress=False)
        losses[kind] = [r["loss"] for r in read_metrics(run.folder) if r["kind"] == "train"]
    assert losses["passed"][0] == losses["fresh"][0] == losses["noisy"][0] != losses["carried"][0]
    assert len({tuple(values[1:]) for values in losses.values()}) == 4


def test_steps_start_where_the_last_one_ended(tiny: Tiny) -> None:
    trainer = Trainer(tiny(initial_state="passed"), silent, False)
    begun: list[mn.State] = []
    loss = trainer.loss

    def kept(batch: Any, state: Any) -> Any:
        begun.append(state)
        return loss(batch, state)

    trainer.loss = kept
    trainer.train_step()
    ended = trainer.state
    trainer.train_step()
    assert ended is not None
    assert same(begun[1], ended)
    assert not same(begun[0], begun[1])


def test_unfit_choices_are_refused(tiny: Tiny) -> None:
    with pytest.raises(InvalidValue, match=re.escape("fresh_rows is a share of the windows, in [0, 1); got 1.")):
        tiny(initial_state="passed", fresh_rows=1.0)
    with pytest.raises(InvalidValue, match="all windows begin with an empty memory: leave out fresh_rows"):
        tiny(fresh_rows=0.5)
    with pytest.raises(InvalidValue, match=r"transformer keeps every token, so a state passed on .* would grow"):
        train(tiny(system="transformer", initial_state="passed"), progress=False)
    assert not tiny().out.exists()


UNSTABLE = """
import mnemos as mn
memory = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD(rate=3.0))
spec = mn.ModelSpec((mn.zoo.linear_attention(), mn.LayerSpec(memory)), width=16, depth=2, heads=2)
"""


def test_a_run_that_diverges_says_in_which_layer_head_and_token(tiny: Tiny, tmp_path: Path) -> None:
    system = tmp_path / "unstable.py"
    system.write_text(UNSTABLE)
    config = tiny(system=str(system), width=None, depth=None, heads=None, length=600)
    found = r"became nan in step 1, .* Where it began: layer 1, heads? [01].*, token \d+ of row [01]: .*rate 3 \("
    with pytest.raises(RunError, match=found) as caught:
        train(config, progress=False)
    assert "Use keys of length 1, LayerSpec(keys=Unit()); or a smaller rate" in str(caught.value)


def test_gradients_that_are_not_finite_are_named_by_their_weights(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = Trainer.loss

    def overflowing(self: Trainer, *arguments: Any) -> Any:
        value, state = loss(self, *arguments)
        weight = self.model.blocks[0].ffn.up.weight  # pyright: ignore
        return value + 0 * (weight.sum() * 0).sqrt(), state  # d sqrt at 0 is infinite, times 0

    monkeypatch.setattr(Trainer, "loss", overflowing)
    with pytest.raises(
        RunError, match=r"norm of the gradient became nan .* not in blocks\.0\.ffn\.up\.weight\. Train into"
    ):
        train(tiny(optimiser=Optimiser(warmup=0)), progress=False)
