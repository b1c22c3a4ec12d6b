"""Starting values of the weights: the schemes of the YuLan-Mini recipe and of its ablations.

With WeSaR (``wesar_weights``) every matrix and the embedding start at N(0, s), s =
``initializer_range``, and the alphas carry the scale: sqrt(256/d) for q, k, v and gate_up,
sqrt(256/d)/sqrt(2L) for o and down, 1 for the others. The paper states a *variance* of 5e-5, the
released code a standard deviation; this follows the code. Without WeSaR ``model_reproduce`` names
the scheme:

- ``transformer``: s everywhere;
- ``cerebras``: q, k, v, gate and up s/sqrt(d/256), o and down s/sqrt(2Ld/256);
- ``minicpm``: o and down s/sqrt(d/256);
- ``scaled``: s = sqrt(2/(5d)) in place of ``initializer_range``, o and down s/sqrt(2L).

The 256 is ``dim_model_base_init`` if the config has one, else ``dim_model_base_lr``. What a scheme
does not name starts at s, biases at 0, norm weights at 1.
"""

from torch import nn
from transformers import initialization

from workbench.models.configuration import YuLanMiniConfig

_INNER = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_OUTER = ("o_proj", "down_proj")
_INNER_ALPHAS = ("q_proj_alpha", "k_proj_alpha", "v_proj_alpha", "gate_up_proj_alpha")
_OUTER_ALPHAS = ("o_proj_alpha", "down_proj_alpha")


def initialise(config: YuLanMiniConfig, module: nn.Module, name: str) -> None:
    """Set a matrix by its name in the module that holds it, and the alphas of any other module.

    Values that came from a checkpoint stay: ``transformers.initialization`` leaves them alone.
    """
    if isinstance(module, (nn.Linear, nn.Embedding)):
        initialization.normal_(module.weight, mean=0.0, std=starting_std(config, name))
    for own, parameter in module.named_parameters(recurse=False):
        if own.endswith("_alpha"):
            initialization.constant_(parameter, starting_alpha(config, own))


def starting_std(config: YuLanMiniConfig, matrix: str) -> float:
    """Standard deviation of a matrix by the name of its module, such as ``q_proj``.

    Raises ValueError when ``model_reproduce`` names no scheme.
    """
    scheme = "transformer" if config.wesar_weights else config.model_reproduce
    width, depth = _width(config), 2 * config.num_hidden_layers
    s = config.initializer_range
    if scheme == "transformer":
        inner = outer = s
    elif scheme == "cerebras":
        inner, outer = s / width**0.5, s / (depth * width) ** 0.5
    elif scheme == "minicpm":
        inner, outer = s, s / width**0.5
    elif scheme == "scaled":
        s = (2 / (5 * config.hidden_size)) ** 0.5
        inner, outer = s, s / depth**0.5
    else:
        raise ValueError(
            f"model_reproduce {scheme!r} is no initialisation: choose cerebras, minicpm, scaled "
            "or transformer."
        )
    return inner if matrix in _INNER else outer if matrix in _OUTER else s


def starting_alpha(config: YuLanMiniConfig, name: str) -> float:
    """Starting value of an alpha by its parameter name, such as ``q_proj_alpha``."""
    if name in _INNER_ALPHAS:
        return _width(config) ** -0.5
    if name in _OUTER_ALPHAS:
        return (2 * config.num_hidden_layers * _width(config)) ** -0.5
    return 1.0


def _width(config: YuLanMiniConfig) -> float:
    return config.hidden_size / (config.dim_model_base_init or config.dim_model_base_lr)
