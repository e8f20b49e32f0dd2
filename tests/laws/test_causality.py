"""Law: nothing comes from later tokens, and rows of a batch do not see each other. Exactly, not approximately."""

from __future__ import annotations

import torch
from cases import DISCRETE, HEADS, SMOOTH, WIDTH, Inputs, each, each_model, executors_for, make_model, some_tokens

import mnemos as mn
from mnemos.layers import ChunkRecall
from mnemos.memory import AnyMemory, Delayed, DynamicMask, EpisodicMemory, Hops, Landmark


@each(SMOOTH)
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
        unread = isinstance(memory, EpisodicMemory) and memory.window == 0 and t >= memory.sinks
        written_later |= unread  # until its episode is finished
        pair = gradients[1:3]
        rule = getattr(memory, "read_rule", None)
        if isinstance(rule.read if isinstance(rule, Hops) else rule, Delayed | DynamicMask | Landmark):
            continue  # a token need not be among those that it looks at
        if written_later:
            assert all(x is None or not x[:, t].any() for x in pair), plan
        else:
            assert any(x is not None and x[:, t].any() for x in pair), plan


@each(SMOOTH)
def test_no_gradient_from_other_rows_or_heads(memory: AnyMemory) -> None:
    inputs = Inputs(memory, 19, batch=3).require_grad()
    for plan in executors_for(memory, inputs):
        out, _ = mn.run(memory, *inputs.cut(0, 19), weights=inputs.weights, plan=plan)
        everything = [inputs.q, inputs.k, inputs.v, *inputs.controls.values()]
        gradients = torch.autograd.grad(out[1, :, 1].square().sum(), everything, allow_unused=True)
        for gradient in gradients:
            if gradient is not None:
                matched_together = isinstance(memory, EpisodicMemory) and not memory.together
                assert not gradient[[0, 2]].any() and (matched_together or not gradient[:, :, 0].any()), plan
        assert any(gradient is not None and gradient[1, :, 1].any() for gradient in gradients)


@each(DISCRETE)
def test_nothing_discrete_from_later_tokens_other_rows_or_heads(memory: AnyMemory) -> None:
    inputs, others = Inputs(memory, 19, batch=3), Inputs(memory, 19, batch=3)
    mine = torch.zeros(3, 19, 2, 1, dtype=torch.bool)
    mine[1, :12, 1] = True
    q, k, v = (torch.where(mine, x, y) for x, y in zip(inputs.cut(0, 19)[:3], others.cut(0, 19)[:3], strict=True))
    for plan in executors_for(memory, inputs):
        out, _ = mn.run(memory, inputs.q, inputs.k, inputs.v, plan=plan)
        again, _ = mn.run(memory, q, k, v, plan=plan)
        assert torch.equal(out[1, :12, 1], again[1, :12, 1]) and not torch.equal(out, again), plan


@each_model()
def test_layers(spec: mn.ModelSpec) -> None:
    layer = spec.pattern[0].build(WIDTH, HEADS).double()
    x = torch.randn(3, 27, WIDTH, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x)
    # A memory that is strict about its own token answers the first one with zero, or all of the first chunk; one that
    # is late, all until its first answer comes.
    first = spec.pattern[0]
    t = int(torch.randint(first.chunk if isinstance(first, ChunkRecall) else max(first.delay, 1), 26, ()))
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
    t = int(torch.randint(spec.delay, 26, ()))
    (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), embedded)
    assert gradient[0, : t + 1].any()
    assert not gradient[0, t + 1 :].any() and not gradient[1].any()

    changed = tokens.clone()
    changed[:, t + 1 :] = (changed[:, t + 1 :] + 1) % spec.vocabulary
    assert torch.equal(model(changed)[0][:, : t + 1], logits[:, : t + 1])
