"""The spectral set of a 4800 x 1920 matrix against a plain SVD and WeightWatcher, side by side.

    python -m bench.spectra [--threads N] [--runs N] [--weightwatcher PYTHON] [--no-phase]

Prints the median seconds of everything that the spectra probe reports for one matrix, of
torch.linalg.svdvals alone, and of WeightWatcher's analyze where PYTHON can import it; the three
alternate, so that all see the same load. Once for a random matrix, and once for one whose singular
values fall off as those of trained matrices do. Then times the probe on one layer and on the
embedding of YuLan-Mini's shape, and multiplies: the minutes of a whole phase.
"""

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator

ROWS, COLUMNS, LAYERS, VOCABULARY = 4800, 1920, 56, 99_000

WEIGHTWATCHER = """
import contextlib, io, sys, time, warnings
warnings.simplefilter("ignore")
import torch, weightwatcher
torch.set_num_threads(int(sys.argv[2]))
weight = torch.load(sys.argv[1], weights_only=True).float()
linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
linear.weight.data = weight
watcher = weightwatcher.WeightWatcher(model=torch.nn.Sequential(linear))
print(weightwatcher.__version__, flush=True)
for _ in sys.stdin:
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        row = watcher.analyze().iloc[0]
    print(time.perf_counter() - started, row.alpha, row.D, row.stable_rank, flush=True)
"""


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def random_matrix():
    """Gaussian in bfloat16, as YuLan-Mini's matrices are at the start."""
    import torch

    return torch.randn(ROWS, COLUMNS).mul_(0.02).bfloat16()


def trained_like_matrix():
    """Noise, and directions that stand out of it by a power law: s_1/s_r is 25.

    The feed-forward matrices of SmolLM2-135M have 9 to 25. Beyond about 60, and for square ones,
    the Gram matrix is made in float64, which takes half as long again or, at a second try, twice.
    """
    import torch

    strengths = 3.0 * torch.arange(1, 201) ** -0.7
    signal = torch.randn(ROWS, 200) / 200**0.5 * strengths @ torch.randn(200, COLUMNS)
    return torch.randn(ROWS, COLUMNS).add_(signal).mul_(0.02).bfloat16()


def compare(name: str, matrix, runs: int, threads: int, weightwatcher: str | None) -> None:
    import tempfile

    import torch

    from probes.singular_values import singular_values
    from probes.spectral import spectral_metrics

    found = {}

    def ours() -> None:
        spectrum = singular_values(matrix)
        found.update(spectral_metrics(spectrum), method=spectrum.method)

    in_float32 = matrix.float()
    watcher = None
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save(matrix, file.name)
        if weightwatcher:
            watcher = subprocess.Popen(
                [weightwatcher, "-c", WEIGHTWATCHER, file.name, str(threads)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            version = watcher.stdout.readline().strip()

        def theirs() -> list[float]:
            watcher.stdin.write("\n")
            watcher.stdin.flush()
            return [float(field) for field in watcher.stdout.readline().split()]

        ours()  # the first call of each starts threads and fills caches
        torch.linalg.svdvals(in_float32)
        if watcher:
            theirs()
        times: dict[str, list[float]] = {"ours": [], "svdvals": [], "weightwatcher": []}
        for _ in range(runs):
            times["ours"].append(seconds(ours))
            times["svdvals"].append(seconds(lambda: torch.linalg.svdvals(in_float32)))
            if watcher:
                watched = theirs()
                times["weightwatcher"].append(watched[0])
        if watcher:
            watcher.communicate()
    medians = {who: statistics.median(taken) for who, taken in times.items() if taken}
    exact = torch.linalg.svdvals(matrix.double())
    print(f"{name} {ROWS} x {COLUMNS}, {threads} threads, median of {runs}:")
    print(f"  full spectral set       {medians['ours']:.3f} s ({found['method']})")
    print(
        f"  torch.linalg.svdvals    {medians['svdvals']:.3f} s, "
        f"{medians['svdvals'] / medians['ours']:.2f} x"
    )
    if watcher:
        print(
            f"  WeightWatcher {version:9s} {medians['weightwatcher']:.3f} s, "
            f"{medians['weightwatcher'] / medians['ours']:.2f} x; relative differences: alpha "
            f"{abs(watched[1] / found['powerlaw_alpha'] - 1):.1e}, KS "
            f"{abs(watched[2] / found['powerlaw_ks'] - 1):.1e}, stable rank "
            f"{abs(watched[3] / found['stable_rank'] - 1):.1e}"
        )
    condition = float(exact[0] / exact[-1])
    print(
        f"  against a float64 SVD: s_1 {abs(found['spectral_norm'] / float(exact[0]) - 1):.1e}, "
        f"condition {condition:.1f} {abs(found['condition_number'] / condition - 1):.1e}, bound "
        f"{found['singular_value_error']:.1e}"
    )


class PartOfYuLan:
    """Some matrices of YuLan-Mini's shapes in both views, as a checkpoint hands them out."""

    def __init__(self, shapes: dict[str, tuple[int, int]]) -> None:
        import torch

        self.matrices = {m: torch.randn(shape).mul_(0.02).bfloat16() for m, shape in shapes.items()}

    def tensor_names(self) -> list[str]:
        return list(self.matrices)

    def both_views(self) -> Iterator:
        from workbench.checkpoints.checkpoint import Weight
        from workbench.checkpoints.roles import Role

        heads = {"q_proj": 30, "k_proj": 6, "v_proj": 6, "o_proj": 30}
        for module, matrix in self.matrices.items():
            side = "columns" if module == "o_proj" else "rows"
            role = Role(module, 0, heads.get(module), side, is_matrix=True)
            yield "stored", Weight(module, role, matrix, None)
            yield "effective", Weight(module, role, matrix, 0.3)


def phase(threads: int, runs: int) -> None:
    from probes.base import Measuring
    from probes.spectra import SpectraProbe

    d, ffn, kv = COLUMNS, ROWS, 384
    layer = PartOfYuLan(
        {
            "q_proj": (d, d), "k_proj": (kv, d), "v_proj": (kv, d), "o_proj": (d, d),
            "gate_proj": (ffn, d), "up_proj": (ffn, d), "down_proj": (d, ffn),
        }
    )  # fmt: skip
    embedding = PartOfYuLan({"embed": (VOCABULARY, d)})

    def measure(part: PartOfYuLan, times: int) -> tuple[float, str]:
        taken, methods = [], ""
        for _ in range(times):
            started = time.perf_counter()
            found = SpectraProbe().measure(part, SpectraProbe.Settings(), Measuring())
            taken.append(time.perf_counter() - started)
            methods = found.notes["spectral_methods"]
        return statistics.median(taken), methods

    of_layer, layer_methods = measure(layer, runs)
    of_embedding, embedding_methods = measure(embedding, 1)
    print(f"YuLan-Mini's shape, {threads} threads, random weights, heads and products included:")
    print(f"  one layer               {of_layer:.2f} s ({layer_methods})")
    print(f"  embedding and tied head {of_embedding:.2f} s ({embedding_methods})")
    total = LAYERS * of_layer + of_embedding
    print(f"  projected: {LAYERS} layers and the embedding {total / 60:.1f} minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--weightwatcher", help="a Python that can import weightwatcher")
    parser.add_argument("--no-phase", action="store_true", help="the single matrices only")
    arguments = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = str(arguments.threads)
    import torch

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    for name, make in (("random", random_matrix), ("trained-like", trained_like_matrix)):
        compare(name, make(), arguments.runs, arguments.threads, arguments.weightwatcher)
    if not arguments.no_phase:
        phase(arguments.threads, arguments.runs)


if __name__ == "__main__":
    main()
