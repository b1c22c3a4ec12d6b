"""One checkpoint on disk: tensors one at a time, stored and effective views, model, tokenizer."""

from workbench.checkpoints.checkpoint import Checkpoint, Weight

__all__ = ["Checkpoint", "Weight"]
