"""A trained model asked by lm-evaluation-harness, with tasks of its own and without a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mnemos.cli import main
from mnemos.errors import InvalidValue
from mnemos.evaluate.scoring import Scorer

ROWS = [
    {"question": "memory", "choices": ["holds", "what was written"], "answer": 0},
    {"question": "it reads", "choices": ["<reads>", "back", "häufig"], "answer": 1},
    {"question": "", "choices": ["memory", "and"], "answer": 1},
]
COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
"""
TASKS = {
    "chosen": """
task: chosen
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "whole": """
task: whole
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{choices[0]}}"
metric_list: [{metric: bits_per_byte}]
""",
    "written": """
task: written
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["z"], max_gen_toks: 3}
metric_list: [{metric: exact_match}]
""",
}


@pytest.mark.filterwarnings("ignore")
def test_local_tasks_end_to_end(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(Path("datasets").absolute()))
    data = Path("questions.jsonl").absolute()
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("tasks").mkdir()
    for name, text in TASKS.items():
        Path("tasks", f"{name}.yaml").write_text(COMMON.format(data=data) + text)
    words = ["harness", str(run), "--tasks", *TASKS, "--include", "tasks", "--json", "found.json", "--device", "cpu"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(f"|{name}" in shown for name in TASKS)
    found = json.loads(Path("found.json").read_text())["results"]

    scorer = Scorer.of_checkpoint(run)
    right = 0
    for row in ROWS:
        likelihoods = scorer.likelihoods([(row["question"], f" {choice}") for choice in row["choices"]])
        values = [one.log_p for one in likelihoods]
        right += values.index(max(values)) == row["answer"]
    assert found["chosen"]["acc,none"] == pytest.approx(right / len(ROWS))
    texts = [f"{row['question']} {row['choices'][0]}" for row in ROWS]
    bits = -sum(scorer.document_likelihoods(texts)) / 0.6931471805599453
    assert found["whole"]["bits_per_byte,none"] == pytest.approx(bits / sum(len(text.encode()) for text in texts))
    assert found["written"]["exact_match,none"] == 0.0

    assert main(["harness", str(run), "--tasks", "choosen", "--include", "tasks"]) == 2
    assert "no task called 'choosen'; did you mean chosen?" in capsys.readouterr().err


def test_settings_of_a_generation() -> None:
    pytest.importorskip("lm_eval")
    from mnemos.evaluate.harness import _settings

    plain = {"length": 256, "stops": [], "temperature": 0.0, "top_p": None, "seed": 0}
    for given, changes in [
        ({}, {}),
        ({"until": "\n"}, {"stops": ["\n"]}),
        ({"until": ["a", ""], "max_new_tokens": 7}, {"stops": ["a"], "length": 7}),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, {}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"temperature": 0.7, "top_p": 0.9, "seed": 4}, {"temperature": 0.7, "top_p": 0.9, "seed": 4}),
    ]:
        assert _settings(given) == plain | changes
    with pytest.raises(InvalidValue, match=r"asks for top_k=5 in generation; mnemos knows until"):
        _settings({"top_k": 5})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--include", "nowhere"], "--include nowhere: there is no such folder"),
        (["--limit", "0"], "--limit must be at least 1; got 0"),
        (["--shots", "-1"], "--shots must be at least 0; got -1"),
        (["--json", "text.txt"], "--json text.txt exists already"),
        ([], 'this needs lm-evaluation-harness: pip install "mnemos[eval]"'),
    ],
)
def test_what_the_command_refuses(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mnemos.evaluate.harness", raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["harness", "run", "--tasks", "chosen", *words]) == 2
    assert message in capsys.readouterr().err
