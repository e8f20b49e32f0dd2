"""Questions about stories, answered by several readings of their sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mnemos.errors import InvalidType, InvalidValue, expect
from mnemos.memory.read.base import masked_softmax
from mnemos.models.network import NetworkDeclaration


@dataclass(frozen=True)
class EndToEndMemorySpec(NetworkDeclaration):
    """An end-to-end memory network (arXiv 1503.08895). For sentences x_i and a question q of words,

        m_i = sum_j l_j * A x_ij + T_A(i),   c_i = sum_j l_j * C x_ij + T_C(i),   u = sum_j l_j * B q_j
        hops times:  p = softmax_i(u . m_i),   o = sum_i p_i c_i,   u <- H u + o
        logits = W u

    tying: "adjacent", A of a hop is C of the hop before, T alike, B is the first A, W the last C, H = 1; or
    "layerwise", the same A, C and H at every hop, B and W of their own.
    encoding: "position" weights the words of a sentence of J words, l_jk = 1 + 4 (k - (d+1)/2) (j - (J+1)/2) / (d J)
    for channel k; "bag" counts them, l = 1.
    temporal: whether there is a T, a learned vector for every age of a sentence, 0 for the most recent.
    memories: sentences that are remembered, the most recent ones.
    masked: whether places without a sentence get no weight. Without the mask, as in the published code, they stand
    behind the sentences as zeros with a T.
    noise: in training, how likely an empty place is put behind each sentence (random noise, 0.1 in the paper).
    """

    vocabulary: int
    width: int = 20
    hops: int = 3
    memories: int = 50
    tying: Literal["adjacent", "layerwise"] = "adjacent"
    encoding: Literal["position", "bag"] = "position"
    temporal: bool = True
    masked: bool = True
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("vocabulary", 2), ("width", 1), ("hops", 1), ("memories", 1)):
            value = getattr(self, name)
            expect(value >= least, f"EndToEndMemorySpec({name}=) is a whole number of at least {least}; got {value!r}.")
        expect(
            self.tying in ("adjacent", "layerwise"),
            f'EndToEndMemorySpec(tying=) is "adjacent" or "layerwise"; got {self.tying!r}.',
        )
        expect(
            self.encoding in ("position", "bag"),
            f'EndToEndMemorySpec(encoding=) is "position" or "bag"; got {self.encoding!r}.',
        )
        expect(0 <= self.noise < 1, f"EndToEndMemorySpec(noise=) is a probability in [0, 1); got {self.noise!r}.")

    @property
    def kept(self) -> str:
        return f"the last {self.memories} sentences"

    def build(self) -> EndToEndMemory:
        return EndToEndMemory(self)

    def example(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Stories of five sentences of four words, and questions of three."""
        story, question = (
            torch.randint(1, self.vocabulary, (batch, *shape), generator=generator) for shape in ((5, 4), (3,))
        )
        return story, question


class EndToEndMemory(nn.Module):
    """What an `EndToEndMemorySpec` declares.

    linear: an attribute; while it is True no softmax is taken (linear start).
    """

    linear = False

    def __init__(self, spec: EndToEndMemorySpec):
        super().__init__()
        self.spec, vocabulary, width = spec, spec.vocabulary, spec.width
        # Embeddings of all words but the nil word, which is zero; adjacent: the first A and every C; layerwise: A, C.
        sets = spec.hops + 1 if spec.tying == "adjacent" else 2
        self.words = nn.Parameter(0.1 * torch.randn(sets, vocabulary - 1, width))
        self.times = nn.Parameter(0.1 * torch.randn(sets, spec.memories, width)) if spec.temporal else None
        own = spec.tying == "layerwise"
        self.asking = nn.Parameter(0.1 * torch.randn(vocabulary - 1, width)) if own else None  # B
        self.answering = nn.Parameter(0.1 * torch.randn(vocabulary - 1, width)) if own else None  # W
        self.carry = nn.Linear(width, width, bias=False) if own else None  # H
        if self.carry is not None:
            nn.init.normal_(self.carry.weight, std=0.1)

    def forward(self, story: Tensor, question: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the answer (B, vocabulary), and the weights (B, hops, memories) of the sentences, the most recent
        first.

        story: (B, sentences, words) int64 in [0, vocabulary), in the order of time; question: (B, words). 0 is the nil
        word, which fills up sentences; a sentence of nil words alone is no sentence. Raises InvalidType or InvalidValue
        for anything else.
        """
        _check_words("story", story, 3, "(batch, sentences, words)", self.spec.vocabulary)
        _check_words("question", question, 2, "(batch, words)", self.spec.vocabulary)
        if story.shape[0] != question.shape[0]:
            raise InvalidValue(f"story and question have {story.shape[0]} and {question.shape[0]} rows.")
        place, filled = self.places(story)
        tables = [self._remembered(i, story, place) for i in range(len(self.words))]
        u = self.embedded(self.words[0] if self.asking is None else self.asking, question)
        seen = filled if self.spec.masked else torch.ones_like(filled)
        looked = []
        for hop in range(self.spec.hops):
            keys, values = (tables[hop], tables[hop + 1]) if self.carry is None else tables
            scores = (keys @ u[:, :, None])[..., 0]
            weights = torch.where(seen, scores, 0.0) if self.linear else masked_softmax(scores, seen)
            found = (weights[:, None] @ values)[:, 0]
            u = found + (u if self.carry is None else self.carry(u))
            looked.append(weights)
        matrix = self.words[-1] if self.answering is None else self.answering
        return u @ _with_nil(matrix).T, torch.stack(looked, 1)

    def places(self, story: Tensor) -> tuple[Tensor, Tensor]:
        """Where each sentence stands, (B, sentences), `memories` for none; and which places are filled, (B, memories).
        Place 0 is the most recent sentence's."""
        real = (story > 0).any(-1)
        later = real.long()
        if self.training and self.spec.noise:
            later = later + (real & (torch.rand(real.shape, device=real.device) < self.spec.noise)).long()
        place = later.flip(1).cumsum(1).flip(1) - later
        place = torch.where(real, place, self.spec.memories).clamp(max=self.spec.memories)
        filled = torch.zeros(story.shape[0], self.spec.memories + 1, dtype=torch.bool, device=story.device)
        return place, filled.scatter(1, place, True)[:, :-1]

    def embedded(self, words: Tensor, sentences: Tensor) -> Tensor:
        """Sentences (..., J) as weighted sums (..., width) of the embeddings `words` (vocabulary - 1, width)."""
        found = nn.functional.embedding(sentences, _with_nil(words))
        if self.spec.encoding == "position":
            found = self.position_weights(sentences) * found
        return found.sum(-2)

    def position_weights(self, sentences: Tensor) -> Tensor:
        """l, (..., J, width) for sentences (..., J), whose own length counts."""
        words = self.words
        channel = torch.arange(1, self.spec.width + 1, dtype=words.dtype, device=words.device)
        number = torch.arange(1, sentences.shape[-1] + 1, dtype=words.dtype, device=words.device)
        length = (sentences > 0).sum(-1).clamp(min=1).to(words.dtype)[..., None, None]
        aside = channel - (self.spec.width + 1) / 2
        return 1 + 4 * aside * (number[:, None] - (length + 1) / 2) / (self.spec.width * length)

    def _remembered(self, number: int, story: Tensor, place: Tensor) -> Tensor:
        """The memories (B, memories, width) by the embeddings of this number."""
        sentences = self.embedded(self.words[number], story)
        table = sentences.new_zeros(len(story), self.spec.memories + 1, self.spec.width)
        table = table.scatter(1, place[:, :, None].expand_as(sentences), sentences)[:, :-1]
        return table if self.times is None else table + self.times[number]


def _with_nil(words: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(words[:1]), words])


def _check_words(name: str, words: Tensor, axes: int, shape: str, vocabulary: int) -> None:
    """Raises unless `words` is an int64 tensor of ids with so many axes."""
    if not isinstance(words, Tensor) or words.dtype != torch.int64:
        raise InvalidType(f"{name} must be an int64 tensor; got {getattr(words, 'dtype', type(words).__name__)}.")
    if words.ndim != axes:
        raise InvalidValue(f"{name} must be {shape}; got shape {tuple(words.shape)}.")
    if words.numel():
        low, high = int(words.min()), int(words.max())
        if low < 0 or high >= vocabulary:
            raise InvalidValue(f"{name} holds words in [0, {vocabulary}); got ids from {low} to {high}.")
