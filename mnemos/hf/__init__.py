"""Retention policies in the models of others: a cache for the decoders of Hugging Face transformers.

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
from mnemos.hf.layer import PolicyLayer

register()

__all__ = ["PolicyCache", "PolicyLayer"]
