"""Law: several tokens written at once are the same tokens written one after the other."""

from __future__ import annotations

import pytest
import torch
from cases import CHUNK, KEEPING, SOME, Inputs, assert_states_close, each

from mnemos.errors import InvalidType, InvalidValue, StateError
from mnemos.memory import AnyMemory, KVMemory


@each(dict.fromkeys([*SOME, *KEEPING]))
def test_writing_at_once(memory: AnyMemory) -> None:
    inputs = Inputs(memory, CHUNK + 3)
    written = {control.name for control in memory.write_controls}
    controls = {name: x for name, x in inputs.controls.items() if name in written}
    for start in (inputs.init(), inputs.lived()):
        one_by_one = start
        for t in range(inputs.q.shape[1]):
            now = {name: x[:, t] for name, x in controls.items()}
            one_by_one = memory.write(one_by_one, inputs.k[:, t], inputs.v[:, t], now)
        assert_states_close(memory.write_all(start, inputs.k, inputs.v, controls), one_by_one)
        with torch.no_grad():
            assert_states_close(memory.write_all(start.clone(), inputs.k, inputs.v, controls), one_by_one)


def test_what_cannot_be_written() -> None:
    memory = KVMemory()
    state, x = memory.init(2, 3, 4, 5), torch.randn
    for k, v, error, message in (
        (x(2, 3, 4), x(2, 3, 5), InvalidValue, r"k must be \(batch, tokens, heads, key_dim\)"),
        (x(2, 6, 3, 4), x(2, 7, 3, 5), InvalidValue, r"must share \(batch, tokens, heads\); got \(2, 6, 3\) and"),
        (x(2, 6, 3, 4).long(), x(2, 6, 3, 5), InvalidType, "k must be a floating point tensor; got torch.int64"),
        (x(2, 6, 3, 4), x(2, 6, 3, 5) / 0, InvalidValue, "v holds NaN or infinity"),
        (x(2, 6, 3, 5), x(2, 6, 3, 5), StateError, "key_dim"),
        (x(1, 6, 3, 4), x(1, 6, 3, 5), StateError, "2"),
    ):
        with pytest.raises(error, match=message):
            memory.write_all(state, k, v)
    with pytest.raises(InvalidValue, match="unknown control 'rate'"):
        memory.write_all(state, x(2, 6, 3, 4), x(2, 6, 3, 5), {"rate": x(2, 6, 3)})
