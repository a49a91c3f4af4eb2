"""The engine's arithmetic by llama.cpp: quantised weights, best for few sequences."""

from __future__ import annotations

from collections.abc import Sequence

from ponder.engine import _llama_c as c
from ponder.engine.backend import Logits, Row
from ponder.errors import ModelError

_MOST_SEQUENCES = 256
"""llama.cpp's own limit."""


class LlamaBackend:
    """A GGUF file in llama.cpp, one cache for all sequences; a fork copies no keys or values.

    Args:
        path: the file.
        cells: tokens of key-value cache.
        sequences: sequences it can hold, at most 256.
        threads: processor threads.

    Raises:
        ModelError: llama.cpp cannot load it, or it keeps something else than keys and values, which
            cannot be forked at any token.
    """

    def __init__(self, path: str, cells: int, sequences: int, threads: int) -> None:
        lib = c.library()
        self.sequences = min(sequences, _MOST_SEQUENCES)
        self.batch = max(512, self.sequences)
        self._model = c.load_model(path)
        if lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model):
            self._refuse(path, "a recurrent state")
        if lib.llama_model_n_swa(self._model) > 0:
            self._refuse(path, "a sliding window")
        self._context = c.open_context(self._model, cells, self.sequences, self.batch, threads)
        self.cells = int(lib.llama_n_ctx(self._context))
        self._memory = lib.llama_get_memory(self._context)
        self._width = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self._batch = c.Batch(self.batch)

    def _refuse(self, path: str, what: str) -> None:
        c.library().llama_model_free(self._model)
        raise ModelError(f"{path} keeps {what}, which cannot be forked at any token; run it as llamacpp:")

    def evaluate(self, rows: Sequence[Row]) -> Logits:
        """See `Backend`."""
        batch, n, wanted = self._batch, 0, 0
        for row in rows:
            end = n + len(row.tokens)
            batch.token[n:end] = row.tokens
            batch.position[n:end] = range(row.start, row.start + len(row.tokens))
            batch.sequence[n:end] = row.sequence
            batch.wanted[n:end] = 0
            batch.wanted[end - row.wanted : end] = 1
            n, wanted = end, wanted + row.wanted
        code = batch.run(self._context, n)
        if code != 0:
            reason = "no room in the key-value cache" if code == 1 else f"code {code}"
            raise ModelError(f"llama.cpp could not evaluate {n} tokens of {len(rows)} sequences: {reason}")
        return c.rows(c.library().llama_get_logits(self._context), wanted, self._width)

    def fork(self, source: int, target: int, length: int) -> None:
        """See `Backend`."""
        c.library().llama_memory_seq_cp(self._memory, source, target, 0, length)

    def truncate(self, sequence: int, length: int) -> None:
        """See `Backend`."""
        c.library().llama_memory_seq_rm(self._memory, sequence, length, -1)

    def rest(self, sequence: int) -> None:
        """See `Backend`: nothing to be done."""

    def free(self, sequence: int) -> None:
        """See `Backend`."""
        c.library().llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def close(self) -> None:
        """See `Backend`."""
        if self._context:
            c.library().llama_free(self._context)
            c.library().llama_model_free(self._model)
            self._context = self._model = 0
