"""Ways into the store for facts that no probe measured: mixes, published scores, training logs."""
