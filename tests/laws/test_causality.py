"""Law: nothing comes from later tokens, and rows of a batch do not see each other. Exactly, not approximately."""

from __future__ import annotations

import torch
from cases import HEADS, SOME, WIDTH, Inputs, each, each_model, executors_for, make_model, some_tokens

import mnemos as mn
from mnemos.memory import AnyMemory


@each(SOME)
def test_no_gradient_from_later_tokens(memory: AnyMemory) -> None:
    inputs = Inputs(memory, 37).require_grad()
    for plan in executors_for(memory, inputs):
        out, _ = mn.run(memory, *inputs.cut(0, 37), weights=inputs.weights, plan=plan)
        t = int(torch.randint(0, 36, ()))
        per_token = [inputs.q, inputs.k, inputs.v, *inputs.controls.values()]
        gradients = torch.autograd.grad(out[:, t].square().sum(), per_token, allow_unused=True)
        for gradient in gradients:
            assert gradient is None or not gradient[:, t + 1 :].any(), plan
        written_later = getattr(memory, "read_timing", "after") == "before"
        pair = gradients[1:3]
        if written_later:
            assert all(x is None or not x[:, t].any() for x in pair), plan
        else:
            assert any(x is not None and x[:, t].any() for x in pair), plan


@each(SOME)
def test_no_gradient_from_other_rows_or_heads(memory: AnyMemory) -> None:
    inputs = Inputs(memory, 19, batch=3).require_grad()
    for plan in executors_for(memory, inputs):
        out, _ = mn.run(memory, *inputs.cut(0, 19), weights=inputs.weights, plan=plan)
        everything = [inputs.q, inputs.k, inputs.v, *inputs.controls.values()]
        gradients = torch.autograd.grad(out[1, :, 1].square().sum(), everything, allow_unused=True)
        for gradient in gradients:
            if gradient is not None:
                assert not gradient[[0, 2]].any() and not gradient[:, :, 0].any(), plan
        assert any(gradient is not None and gradient[1, :, 1].any() for gradient in gradients)


@each_model()
def test_layers(spec: mn.ModelSpec) -> None:
    layer = spec.pattern[0].build(WIDTH, HEADS).double()
    x = torch.randn(3, 27, WIDTH, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x)
    t = int(torch.randint(1, 26, ()))  # a memory that is strict about its own token answers the first one with zero
    (gradient,) = torch.autograd.grad(y[1, t].square().sum(), x)
    assert gradient[1, : t + 1].any()
    assert not gradient[1, t + 1 :].any()
    assert not gradient[[0, 2]].any()


@each_model()
def test_models(spec: mn.ModelSpec) -> None:
    """By the gradient of a logit to the embeddings, and by changing what comes later."""
    model, tokens = make_model(spec), some_tokens(2, 27)
    embedded: list[torch.Tensor] = []
    model.embedding.register_forward_hook(lambda module, args, out: embedded.append(out))
    logits, _ = model(tokens)
    t = int(torch.randint(0, 26, ()))
    (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), embedded)
    assert gradient[0, : t + 1].any()
    assert not gradient[0, t + 1 :].any() and not gradient[1].any()

    changed = tokens.clone()
    changed[:, t + 1 :] = (changed[:, t + 1 :] + 1) % spec.vocabulary
    assert torch.equal(model(changed)[0][:, : t + 1], logits[:, : t + 1])
