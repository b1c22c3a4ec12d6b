"""A whole phase of YuLan-Mini's size, weights and spectra, from a cold file.

    python -m bench.phase [--layers N] [--device D] [--folder DIR]

Writes a Llama of YuLan-Mini's shapes in bfloat16 (56 layers, 4.85 GB), random weights, and runs the
two probes over it as ``workbench probe`` does, once: at minutes, noise of the machine is small.
Random square matrices are nearly singular, and have their Gram matrix made in float64.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from bench.weights import FILE, forget, write


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=56)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--folder", type=Path, help="where the file is written, on a real disk")
    asked = parser.parse_args()

    import torch

    from probes.base import Measuring
    from probes.spectra import SpectraProbe
    from probes.weights import WeightsProbe
    from workbench.checkpoints import Checkpoint

    with tempfile.TemporaryDirectory(dir=asked.folder) as made:
        folder = Path(made)
        size = write(folder, asked.layers)
        where = f"{torch.get_num_threads()} threads" if asked.device == "cpu" else asked.device
        print(f"{size / 1e9:.2f} GB in bfloat16, {asked.layers} layers, {where}:")
        for probe in (WeightsProbe(), SpectraProbe()):
            forget(folder / FILE)
            started = time.perf_counter()
            found = probe.measure(
                Checkpoint.open(folder), probe.Settings(), Measuring(device=asked.device)
            )
            taken = time.perf_counter() - started
            print(f"  {probe.id:8s} {taken:6.1f} s, {len(found.rows):,} values")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"  resident memory {peak / 1e9:.2f} GB at most")


if __name__ == "__main__":
    main()
