"""The published equations of YuLan-Mini in plain float64 numpy, written apart from the model.

It reads a config.json as a dict and the tensors of a checkpoint by their published names; no torch,
no transformers, nothing of the package. One sequence at a time, loops instead of clever shapes.
"""

import numpy as np


class Reference:
    """``logits(ids)`` of one checkpoint; ``tensors`` may have any float type."""

    def __init__(self, config, tensors):
        self.c = config
        self.t = {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}

    def alpha(self, name):
        """An alpha as a number, whatever its shape; 1 where the checkpoint has none."""
        return float(self.t[name].reshape(())) if name in self.t else 1.0

    def rms(self, x, weight):
        scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + self.c["rms_norm_eps"])
        return x * scale * self.t[weight] * self.c["ln_scale"]

    def shrink(self):
        r = self.c["hidden_states_shrink"]
        return r if 0 <= r < 1 else 1.0

    def rotate(self, x, theta):
        """x (T, head size): pair j and j + half turn by t theta^(-2j / head size)."""
        length, size = x.shape
        half = size // 2
        turned = np.empty_like(x)
        for t in range(length):
            for j in range(half):
                angle = t * theta ** (-2 * j / size)
                a, b = x[t, j], x[t, j + half]
                turned[t, j] = a * np.cos(angle) - b * np.sin(angle)
                turned[t, j + half] = b * np.cos(angle) + a * np.sin(angle)
        return turned

    def project(self, u, layer, letter, heads):
        """a (W u + b), the bias scaled too, cut into heads: a list of (T, head size)."""
        name = f"{layer}self_attn.{letter}_proj"
        y = u @ self.t[f"{name}.weight"].T
        if f"{name}.bias" in self.t:
            y = y + self.t[f"{name}.bias"]
        cut = np.split(y * self.alpha(f"{name}_alpha"), heads, axis=1)
        if letter in "qk" and self.c.get("qk_layernorm"):
            weights = self.t[f"{layer}self_attn.{letter}_layernorm.weight"]
            cut = [self.layer_norm(x) * w for x, w in zip(cut, weights, strict=True)]
        return cut

    def layer_norm(self, x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.c["layer_norm_eps"])

    def attention(self, u, layer):
        heads, kv_heads = self.c["num_attention_heads"], self.c["num_key_value_heads"]
        size = self.c["hidden_size"] // heads
        theta = self.c["rope_theta"]
        q = [self.rotate(x, theta) for x in self.project(u, layer, "q", heads)]
        k = [self.rotate(x, theta) for x in self.project(u, layer, "k", kv_heads)]
        v = self.project(u, layer, "v", kv_heads)
        mixed = []
        for head in range(heads):
            group = head // (heads // kv_heads)
            scores = q[head] @ k[group].T * np.sqrt(self.c["dim_model_base_attn"]) / size
            for row in range(len(u)):
                scores[row, row + 1 :] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(weights / weights.sum(-1, keepdims=True) @ v[group])
        out = np.concatenate(mixed, axis=1) @ self.t[f"{layer}self_attn.o_proj.weight"].T
        return out * self.alpha(f"{layer}self_attn.o_proj_alpha")

    def mlp(self, m, layer):
        m = m * self.alpha(f"{layer}gate_up_proj_alpha")
        gate = m @ self.t[f"{layer}mlp.gate_proj.weight"].T
        up = m @ self.t[f"{layer}mlp.up_proj.weight"].T
        out = (gate / (1 + np.exp(-gate)) * up) @ self.t[f"{layer}mlp.down_proj.weight"].T
        return out * self.alpha(f"{layer}down_proj_alpha")

    def logits(self, ids):
        """(T, vocabulary) for one sequence of token ids."""
        embedding = self.t["model.embed_tokens.weight"]
        x = self.c["scale_emb"] * embedding[ids]
        if self.c.get("embedding_rmsln"):
            x = self.rms(x, "model.embedding_layernorm.weight")
        for index in range(self.c["num_hidden_layers"]):
            layer = f"model.layers.{index}."
            u = self.rms(x, f"{layer}input_layernorm.weight")
            u = u * self.alpha(f"{layer}input_layernorm_alpha")
            x = x + self.shrink() * self.attention(u, layer)
            m = self.rms(x, f"{layer}post_attention_layernorm.weight")
            m = m * self.alpha(f"{layer}post_attention_layernorm_alpha")
            x = x + self.shrink() * self.mlp(m, layer)
        h = self.rms(x, "model.norm.weight") * self.alpha("model.norm_alpha")
        h = h / (self.c["hidden_size"] / self.c["dim_model_base_logits"])
        head = self.t.get("lm_head.weight", embedding)
        return (self.alpha("lm_head_alpha") * h) @ head.T

    def loss(self, ids, labels):
        """(cross-entropy, z-loss) over the tokens whose label is not -100, in nats."""
        logits, target = self.logits(ids)[:-1], np.asarray(labels)[1:]
        top = logits.max(-1)
        logz = np.log(np.exp(logits - top[:, None]).sum(-1)) + top
        kept = [t for t in range(len(target)) if target[t] != -100]
        cross_entropy = np.mean([logz[t] - logits[t, target[t]] for t in kept])
        return cross_entropy, self.c["z_loss"] * np.mean([logz[t] ** 2 for t in kept])
