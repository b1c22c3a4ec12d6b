"""lm-eval's transformers backend, with token ids and logits checked.

lm-eval takes the argmax of log likelihoods without looking at them: of NaN it is the first choice,
so a diverged model would have the score of a model that always answers A.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from probes.text import check_ids


class UnsoundLogits(Exception):
    """A logit that chooses the next token is not finite."""


class CheckedHFLM(HFLM):
    """Makes the log likelihood NaN where a logit is not finite, and stops such a generation."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.unsound_texts: set[str] = set()
        """Tasks of which a text was generated from logits that are not finite."""

    def _loglikelihood_tokens(self, requests: Sequence[Any], *args: Any, **options: Any) -> Any:
        for _, context, continuation in requests:
            self._check([*context, *continuation])
        return super()._loglikelihood_tokens(requests, *args, **options)

    def _select_cont_toks(self, logits: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        """The log probabilities of the continuation; beside -Inf a number would be plausible."""
        logp_TV = super()._select_cont_toks(logits, *args, **options)
        sound_T1 = logp_TV.isfinite().all(-1, keepdim=True)
        return logp_TV.masked_fill(~sound_T1, float("nan"))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Task after task, so that one with unsound logits ends alone; its texts are empty."""
        texts: dict[int, str] = {}
        for task in dict.fromkeys(request.task_name for request in requests):
            of_task = [i for i, request in enumerate(requests) if request.task_name == task]
            try:
                found = super().generate_until([requests[i] for i in of_task], disable_tqdm)
            except UnsoundLogits:
                self.unsound_texts.add(task)
                found = [""] * len(of_task)
            texts |= dict(zip(of_task, found, strict=True))
        return [texts[i] for i in range(len(requests))]

    def _model_generate(self, context: torch.Tensor, *args: Any, **options: Any) -> Any:
        self._check(context.flatten().tolist())
        with_hook = self.model.register_forward_hook(_refuse_unsound)
        try:
            return super()._model_generate(context, *args, **options)
        finally:
            with_hook.remove()

    def _check(self, ids: Sequence[int]) -> None:
        check_ids(ids, self.model.get_input_embeddings().num_embeddings, self.tokenizer)


def _refuse_unsound(module: torch.nn.Module, args: Any, output: Any) -> None:
    if not output.logits[:, -1].isfinite().all():
        raise UnsoundLogits
