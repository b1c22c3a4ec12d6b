"""Windows as long as a context: memory that does not grow with its square, and out of memory."""

import subprocess
import sys

import pytest
import torch

from probes import attention as attention_module
from probes.activations import ActivationsProbe
from probes.attention import AttentionProbe
from probes.base import Measuring
from tests.probes.architectures import TinyCheckpoint
from workbench.errors import WorkbenchError

SCRIPT = """
import torch
from probes.attention_statistics import AttentionStatistics

def peak():
    status = open("/proc/self/status").read()  # unlike getrusage, nothing of the parent's
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


torch.set_num_threads(1)
q_BHTE, k_BGTE = torch.randn(1, 8, {length}, 16), torch.randn(1, 2, {length}, 16)
found = AttentionStatistics()
found.update(q_BHTE[:, :, :256], k_BGTE[:, :, :256], 0.25)  # what any length needs
found = AttentionStatistics()
before = peak()
found.update(q_BHTE, k_BGTE, 0.25)
print(peak() - before)
print(found.values()["entropy_normalised"][0])
"""


def test_attention_of_a_long_window_takes_the_memory_of_a_block():
    length, heads = 4096, 8
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(length=length)],
        check=True,
        capture_output=True,
        text=True,
    )
    grown, entropy = out.stdout.split()
    whole_matrix = heads * length**2 * 4  # 512 MiB in float32
    assert int(grown) < whole_matrix / 2
    assert 0 < float(entropy) < 1


@pytest.mark.parametrize("architecture", ["llama", "gpt-neox", "olmo2"])
def test_a_window_of_the_whole_context_is_read(architecture):
    checkpoint = TinyCheckpoint(architecture, max_position_embeddings=2048)
    for probe in (AttentionProbe, ActivationsProbe):
        settings = probe.Settings(window=2048, windows_per_domain=1, batch_size=1)
        found = probe().measure(checkpoint, settings, Measuring())
        assert all(row["value"] is not None for row in found.rows)


def test_out_of_memory_halves_the_batch_and_begins_again(monkeypatch):
    checkpoint = TinyCheckpoint("llama")
    settings = {"window": 16, "windows_per_domain": 2}
    plain = AttentionProbe().measure(
        checkpoint, AttentionProbe.Settings(**settings, batch_size=2), Measuring()
    )
    rotated, seen = attention_module.rotated, []

    def small_memory(module, q, k, rotation):
        seen.append(len(q))
        if len(seen) in (1, 5):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rotated(module, q, k, rotation)

    monkeypatch.setattr(attention_module, "rotated", small_memory)
    found = AttentionProbe().measure(
        checkpoint, AttentionProbe.Settings(**settings, batch_size=8), Measuring()
    )
    assert seen[:6] == [8, 4, 4, 4, 4, 2]
    assert found.rows == plain.rows


def test_a_window_that_does_not_fit_says_what_to_do(monkeypatch):
    def no_memory(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(attention_module, "rotated", no_memory)
    with pytest.raises(WorkbenchError, match="window"):
        AttentionProbe().measure(
            TinyCheckpoint("llama"), AttentionProbe.Settings(window=16), Measuring()
        )
