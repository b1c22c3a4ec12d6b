"""YuLan-Mini for transformers: importing this registers `yulanmini` and `miniyulan`.

After the import ``AutoConfig`` and ``AutoModelForCausalLM.from_pretrained`` serve the published
checkpoints without remote code.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter

from workbench.models.configuration import MiniYuLanConfig, YuLanMiniConfig
from workbench.models.modeling import MiniYuLanForCausalLM, YuLanMiniForCausalLM

__all__ = ["MiniYuLanConfig", "MiniYuLanForCausalLM", "YuLanMiniConfig", "YuLanMiniForCausalLM"]


class _AlphaToVector(ConversionOps):
    """Alphas are stored with shape () or (1,); the model's have (1,).

    transformers 5 does not call torch's state-dict hooks; this is its own way to reshape.
    """

    def convert(
        self,
        input_dict: dict[str, list[torch.Tensor]],
        source_patterns: list[str],
        target_patterns: list[str],
        **kwargs: Any,
    ) -> dict[str, list[torch.Tensor]]:
        return {
            name: [tensor.reshape(1) for tensor in tensors] for name, tensors in input_dict.items()
        }

    @property
    def reverse_op(self) -> ConversionOps:
        return self


for _config, _model in (
    (YuLanMiniConfig, YuLanMiniForCausalLM),
    (MiniYuLanConfig, MiniYuLanForCausalLM),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModelForCausalLM.register(_config, _model)
    register_checkpoint_conversion_mapping(
        _config.model_type, [WeightConverter("_alpha", "_alpha", [_AlphaToVector()])]
    )
