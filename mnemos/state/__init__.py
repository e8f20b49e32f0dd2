"""What survives between calls: one value that can be moved, branched, selected, reset, saved and loaded."""

from mnemos.state.documents import concatenate, over_documents
from mnemos.state.load import load_state
from mnemos.state.state import Owner, State, describe_owner, expect_state

__all__ = ["Owner", "State", "concatenate", "describe_owner", "expect_state", "load_state", "over_documents"]
