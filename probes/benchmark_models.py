"""What runs the requests of a benchmark: the checkpoint in transformers, or served by vLLM."""

import contextlib
import importlib.util
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from probes.base import Measuring, ProbedCheckpoint
from workbench.errors import UsageError

Backend = Literal["hf", "vllm"]
INSTALL_VLLM = "pip install vllm"


def check_backend(backend: Backend) -> None:
    """Raise UsageError when the backend's package is not installed."""
    if backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UsageError(f"The backend vllm is not installed: `{INSTALL_VLLM}`, or leave it out.")


class Harness:
    """One checkpoint in the form in which lm-eval asks it, loaded when it is first asked for."""

    def __init__(
        self, checkpoint: ProbedCheckpoint, backend: Backend, measuring: Measuring
    ) -> None:
        self.checkpoint = checkpoint
        self.backend = backend
        self._measuring = measuring
        self._model: Any = None
        self._folded: tempfile.TemporaryDirectory[str] | None = None

    def of(self, max_length: int, batch_size: int) -> Any:
        """lm-eval's model; of vLLM the engine is made anew when ``max_length`` differs."""
        if self.backend == "vllm":
            if self._model is None or self._model.max_length != max_length:
                self._model = None  # lets go of the device's memory first
                self._model = self._vllm(max_length)
            return self._model
        from probes.benchmark_hf import CheckedHFLM

        if self._model is None:
            self._model = self.checkpoint.load_model(
                device=self._measuring.device, dtype=self._measuring.dtype
            )
        return CheckedHFLM(
            pretrained=self._model,
            tokenizer=self.checkpoint.load_tokenizer(),
            batch_size=batch_size,
            max_length=max_length,
        )

    def _vllm(self, max_length: int) -> Any:
        from lm_eval.models.vllm_causallms import VLLM

        return VLLM(
            pretrained=str(self._plain_folder()),
            dtype=self._measuring.dtype,
            max_model_len=max_length,
            batch_size="auto",
        )

    def _plain_folder(self) -> Path:
        """A folder that vLLM reads: the checkpoint's own, or its fold into a plain Llama."""
        from workbench.checkpoints import Checkpoint
        from workbench.checkpoints.llama import fold_to_llama

        assert isinstance(self.checkpoint, Checkpoint)
        assert self.checkpoint.folder is not None
        if self.checkpoint.form != "reparameterised":
            return self.checkpoint.folder
        if self._folded is None:
            self._folded = tempfile.TemporaryDirectory(prefix="workbench-")
            fold_to_llama(
                self.checkpoint.folder,
                Path(self._folded.name) / "llama",
                overrides=self.checkpoint.config,
            )
        return Path(self._folded.name) / "llama"


class Cuts(logging.Handler):
    """Counts how often lm-eval says that it cut a request to what the model sees."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.n = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.n += "runcati" in record.getMessage()


@contextlib.contextmanager
def quiet() -> Iterator[Cuts]:
    """Keep lm-eval's bars and prints off the terminal, and its bootstrap in this process."""
    logger, cuts = logging.getLogger("lm_eval"), Cuts()
    level, propagate, handlers = logger.level, logger.propagate, logger.handlers
    logger.setLevel(logging.WARNING)
    logger.propagate, logger.handlers = False, [cuts]
    try:
        with (
            environment(DISABLE_MULTIPROC="1"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield cuts
    finally:
        logger.setLevel(level)
        logger.propagate, logger.handlers = propagate, handlers


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables that are set inside, and as they were after it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
