"""A recipe and texts small enough that a whole run takes a second."""

from typing import Any

from workbench.training.corpus import DOMAINS, load_documents

DOCUMENTS = {domain: load_documents(domain)[:40] for domain in DOMAINS}
VOCABULARY = 600
SHARES = {phase: {"web": 0.5, "chinese": 0.25, "code": 0.25, "maths": 0.0} for phase in range(1, 5)}
FIELDS: dict[str, Any] = {
    "name": "tiny",
    "phases": 4,
    "steps_per_phase": 3,
    "merged_checkpoints": 2,
    "merge_every": 2,
    "optimizer_phases": (2,),
    "unpublished_phases": (3,),
    "tokenizer": {"vocab_size": VOCABULARY},
    "batch": {"tokens": 128, "context_length": 32, "annealing_context_length": 64},
    "rope": {"theta": 10000.0, "annealing_theta": 490000.0},
    "optimizer": {
        "lr": 0.01,
        "betas": (0.9, 0.95),
        "eps": 1e-15,
        "weight_decay": 0.1,
        "clip_grad_norm": 1.0,
    },
    "schedule": {
        "warmup_share": 0.2,
        "annealing_phases": 2,
        "constant_share": 0.2,
        "final_factor": 0.005,
    },
    "model": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "dim_model_base_attn": 8,
        "dim_model_base_logits": 32.0,
        "dim_model_base_lr": 16.0,
        "initializer_range": 0.02,
    },
}


class Stopped(Exception):
    """Raised by a callback of a test, in the place of a power cut."""
