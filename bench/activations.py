"""Activation and attention statistics over a plain forward pass, 55 M parameters, 4 x 256 tokens.

    python -m bench.activations [--threads N] [--runs N]

Rounds in which a plain forward pass, the same with the statistics of every site, with those and
the attention's, and with the attention's alone follow each other, so that all see the same load;
prints the median of the rounds' ratios, of the time that passed and of processor time, which a
busy machine moves less. The logit lens is timed apart, as it is not part of the pass. Then the
largest differences of all values between batch sizes and numbers of threads.
"""

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

BATCH, LENGTH = 4, 256
SHAPE = {
    "vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12,
    "num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": True,
}  # fmt: skip


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that passed, and those of the processors."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - used


def make_model():
    """Llama's structure, random weights: statistics cost the same whatever the values are."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()


def measured(parts, ids_NT, batch_size: int):
    """All values of both probes at this batch size, by metric and place."""
    from probes.activations import ActivationReading, logit_lens, sampled
    from probes.attention import AttentionReading

    activations, attention = ActivationReading(parts), AttentionReading(parts)
    chosen_NT = sampled(ids_NT, 256)
    for ids_BT, chosen_BT in zip(
        ids_NT.split(batch_size), chosen_NT.split(batch_size), strict=True
    ):
        parts.trace(ids_BT, activations.handlers(ids_BT, chosen_BT) | attention.handlers())
    activations.settle(list(ids_NT.split(batch_size)))
    values = {
        (row["metric"], row["module"], row["layer"], None): row["value"]
        for row in activations.measurements(1e-3).rows
        if row["scope"] == "all"
    }
    for layer, lens in enumerate(logit_lens(parts, activations.rows("residual"))):
        values |= {(m, "residual", layer, None): v for m, v in lens.values().items()}
    for layer, of_layer in enumerate(attention.statistics):
        for metric, of_head in of_layer.values().items():
            values |= {(metric, "attention", layer, h): v for h, v in enumerate(of_head)}
    return values


def largest_difference(one: dict, other: dict) -> str:
    """The largest relative difference of two sets of values; places that differ are counted."""
    assert one.keys() == other.keys()
    places = [k for k in one if k[0].endswith(("_position", "_feature", "_token"))]
    moved = sum(one[k] != other[k] for k in places)
    # A mean near zero is set against the spread of its site.
    scale = {
        key: max(abs(value), abs(one.get(("rms_pooled", *key[1:]), 0.0)), 1e-6)
        for key, value in one.items()
        if value is not None and key not in set(places)
    }
    worst = max(scale, key=lambda key: abs(one[key] - other[key]) / scale[key])
    difference = abs(one[worst] - other[worst]) / scale[worst]
    return (
        f"{difference:.1e} relative ({worst[0]} of {worst[1]}, layer {worst[2]}); "
        f"{moved} of {len(places)} places of extremes differ"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(arguments.threads)}
    import torch

    from probes.activations import ActivationReading, logit_lens, sampled
    from probes.attention import AttentionReading
    from probes.sites import anatomy

    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    model = make_model()
    parts = anatomy(model)
    ids_BT = torch.randint(0, SHAPE["vocab_size"], (BATCH, LENGTH))
    chosen_BT = sampled(ids_BT, 256)

    def plain() -> None:
        model(input_ids=ids_BT, use_cache=False)

    def activations() -> None:
        reading = ActivationReading(parts)
        reading.read(ids_BT, chosen_BT)
        reading.settle([ids_BT])
        reading.measurements(1e-3)

    def attention() -> None:
        parts.trace(ids_BT, AttentionReading(parts).handlers())

    def both() -> None:
        reading = ActivationReading(parts)
        handlers = reading.handlers(ids_BT, chosen_BT)
        parts.trace(ids_BT, handlers | AttentionReading(parts).handlers())
        reading.settle([ids_BT])
        reading.measurements(1e-3)

    works = {"plain": plain, "activations": activations, "both": both, "attention": attention}
    for work in works.values():
        work()
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(arguments.runs)]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{parameters / 1e6:.1f} M parameters, {BATCH} x {LENGTH} tokens, {arguments.threads} "
        f"threads, median of {arguments.runs} rounds:"
    )
    print(f"  plain forward pass          {median(r['plain'][0] for r in rounds):.3f} s")
    for name, what in (
        ("activations", "activations"),
        ("both", "activations and attention"),
        ("attention", "attention alone, no head"),
    ):
        passed, used = ([r[name][i] / r["plain"][i] for r in rounds] for i in (0, 1))
        print(
            f"  {what:27s} {median(passed):.3f} x ({min(passed):.3f} to {max(passed):.3f}), "
            f"processor time {median(used):.3f} x"
        )
    reading = ActivationReading(parts)
    reading.read(ids_BT, chosen_BT)
    lens = [seconds(lambda: logit_lens(parts, reading.rows("residual"))) for _ in range(3)]
    share = median(used for _, used in lens) / median(r["plain"][1] for r in rounds)
    print(f"  logit lens, 256 tokens: {share:.2f} of a plain pass more, processor time")
    ids_NT = torch.randint(0, SHAPE["vocab_size"], (8, 128))
    reference = measured(parts, ids_NT, 8)
    for batch_size in (1, 3):
        difference = largest_difference(reference, measured(parts, ids_NT, batch_size))
        print(f"  batches of 8 and of {batch_size}: {difference}")
    torch.set_num_threads(1)
    print(f"  one thread: {largest_difference(reference, measured(parts, ids_NT, 8))}")


if __name__ == "__main__":
    main()
