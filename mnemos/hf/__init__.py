"""Memories in the models of others: caches for the decoders of Hugging Face transformers.

model.set_attn_implementation("mnemos")
cache = mnemos.hf.PolicyCache(model.config, LazyEviction(budget=512))
model.generate(**inputs, past_key_values=cache)
"""

try:
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError("mnemos.hf needs transformers 5: pip install 'mnemos[hf]'.") from error

from mnemos.hf.attention import register
from mnemos.hf.cache import PolicyCache
from mnemos.hf.episodic_cache import EpisodicCache
from mnemos.hf.episodic_layer import EpisodicLayer
from mnemos.hf.layer import PolicyLayer
from mnemos.hf.surprise import own_surprise

register()

__all__ = ["EpisodicCache", "EpisodicLayer", "PolicyCache", "PolicyLayer", "own_surprise"]
