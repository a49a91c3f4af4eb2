"""llama.cpp's C functions, called in the shared object that the package `xllamacpp` ships.

The package's own Python interface is llama.cpp's server. A tree of texts needs what is below it: evaluate
these tokens as part of that sequence, copy a sequence's cache, drop it. Those functions are exported.

Two structures are passed by value whose fields change with llama.cpp's version. They are not spelled out
here: the library fills in its defaults, the fields that ponder sets are found by the pattern of those
defaults, and a library in which they cannot be found is refused with a message.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int32, c_uint32, c_void_p
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ponder.engine.threads import quiet_threads
from ponder.errors import MissingExtraError, ModelError

_PARAMETERS = 1024
"""Bytes set aside for a parameter structure: more than any version has."""
_FLASH_ON = 1


class _Parameters(ctypes.Structure):
    _fields_ = [("raw", ctypes.c_uint8 * _PARAMETERS)]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", c_int32),
        ("token", c_void_p),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", c_void_p),
    ]


_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "llama_model_default_params": (_Parameters, []),
    "llama_context_default_params": (_Parameters, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, _Parameters]),
    "llama_model_free": (None, [c_void_p]),
    "llama_init_from_model": (c_void_p, [c_void_p, _Parameters]),
    "llama_free": (None, [c_void_p]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_model_chat_template": (c_char_p, [c_void_p, c_char_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_vocab_bos": (c_int32, [c_void_p]),
    "llama_vocab_eos": (c_int32, [c_void_p]),
    "llama_vocab_is_eog": (c_bool, [c_void_p, c_int32]),
    "llama_vocab_is_control": (c_bool, [c_void_p, c_int32]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool]),
    "llama_token_to_piece": (c_int32, [c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool]),
    "llama_model_n_ctx_train": (c_int32, [c_void_p]),
    "llama_model_n_swa": (c_int32, [c_void_p]),
    "llama_model_is_recurrent": (c_bool, [c_void_p]),
    "llama_model_is_hybrid": (c_bool, [c_void_p]),
    "llama_n_ctx": (c_uint32, [c_void_p]),
    "llama_n_ctx_seq": (c_uint32, [c_void_p]),
    "llama_n_seq_max": (c_uint32, [c_void_p]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_memory_seq_cp": (None, [c_void_p, c_int32, c_int32, c_int32, c_int32]),
    "llama_decode": (c_int32, [c_void_p, _Batch]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "llama_log_set": (None, [_LogCallback, c_void_p]),
}


@cache
def library() -> Any:
    """The shared object with its functions declared.

    Raises:
        MissingExtraError: xllamacpp is not installed.
        ModelError: the installed one lacks a function that is needed.
    """
    try:
        with quiet_threads():
            from xllamacpp import xllamacpp
    except ImportError:
        raise MissingExtraError("GGUF models", "xllamacpp", "llamacpp") from None
    found = ctypes.CDLL(xllamacpp.__file__)
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(found, name)
        except AttributeError:
            raise ModelError(f"this xllamacpp has no {name}; install the version in ponder's extra llamacpp") from None
        function.restype, function.argtypes = result, arguments
    return found


_LOG = threading.local()


def _listen(level: int, text: bytes, _: Any) -> None:
    lines = getattr(_LOG, "lines", None)
    if lines is not None and level >= 3:
        lines.append(text.decode("utf-8", "replace").strip())


_LISTENER = _LogCallback(_listen)


@contextmanager
def complaints() -> Any:
    """A list of what llama.cpp warns of while it is entered; it prints nothing, then or later."""
    library().llama_log_set(_LISTENER, None)
    _LOG.lines = []
    try:
        yield _LOG.lines
    finally:
        _LOG.lines = None


def load_model(path: str, vocabulary_only: bool = False) -> int:
    """The model's handle.

    Raises:
        ModelError: llama.cpp cannot load it.
    """
    lib = library()
    parameters = lib.llama_model_default_params()
    if vocabulary_only:
        # the booleans: vocab_only, check_tensors, use_extra_bufts, …; the third one is the first that is true
        raw = bytes(parameters.raw)
        place = raw.find(b"\x00\x00\x01\x00\x00")
        if place < 0 or place % 8:
            raise _unknown_layout("llama_model_params")
        parameters.raw[place] = 1
    with complaints() as said:
        model = lib.llama_model_load_from_file(os.fsencode(path), parameters)
    if not model:
        raise ModelError(f"llama.cpp cannot load {path}: {'; '.join(said[-3:]) or 'it does not say why'}")
    return int(model)


def open_context(model: int, cells: int, sequences: int, batch: int, threads: int) -> int:
    """A context with one key-value cache for all sequences.

    Raises:
        ModelError: no memory for it, or a llama.cpp whose parameters are not understood.
    """
    lib = library()
    parameters = lib.llama_context_default_params()
    raw = bytearray(parameters.raw)
    if struct.unpack_from("<4I", raw) != (512, 2048, 512, 1):
        raise _unknown_layout("llama_context_params")
    workers = raw.find(struct.pack("<2i", 4, 4), 16)
    flash = raw.find(struct.pack("<4i", -1, -1, -1, -1), workers)
    types = raw.find(struct.pack("<2i", 1, 1), flash + 16)
    switches = raw.find(bytes([0, 1, 1, 1, 1, 0]), types + 8)
    if not 0 < workers < flash < types < switches:
        raise _unknown_layout("llama_context_params")
    if struct.unpack_from("<I", raw, workers - 4) == (1,):  # outputs of one sequence in a batch: without limit
        struct.pack_into("<I", raw, workers - 4, 0)
    struct.pack_into("<4I", raw, 0, cells, batch, min(batch, 512), sequences)
    struct.pack_into("<2i", raw, workers, threads, threads)
    struct.pack_into("<i", raw, flash + 12, _FLASH_ON)
    raw[switches + 5] = 1  # kv_unified
    parameters.raw[:] = raw
    with complaints() as said:
        context = lib.llama_init_from_model(model, parameters)
    if not context:
        raise ModelError(f"llama.cpp cannot open a context of {cells} tokens: {'; '.join(said[-3:])}")
    unified = lib.llama_n_ctx_seq(context) == lib.llama_n_ctx(context) >= cells
    if not unified or lib.llama_n_seq_max(context) != sequences:
        lib.llama_free(context)
        raise _unknown_layout("llama_context_params")
    return int(context)


def _unknown_layout(name: str) -> ModelError:
    return ModelError(
        f"this xllamacpp's {name} is laid out in a way ponder does not know; install the version in ponder's "
        "constraints, or use engine=torch or the llamacpp: model"
    )


class Batch:
    """Room for a batch, filled from arrays and handed to `llama_decode`.

    Args:
        capacity: most tokens in one batch.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.token = np.zeros(capacity, np.int32)
        self.position = np.zeros(capacity, np.int32)
        self.sequence = np.zeros(capacity, np.int32)
        self.wanted = np.zeros(capacity, np.int8)
        self._ones = np.ones(capacity, np.int32)
        start = self.sequence.ctypes.data
        self._pointers = start + 4 * np.arange(capacity, dtype=np.uint64)

    def run(self, context: int, n: int) -> int:
        """`llama_decode` of the first n entries; its return code."""
        whole = _Batch(
            n,
            self.token.ctypes.data,
            None,
            self.position.ctypes.data,
            self._ones.ctypes.data,
            self._pointers.ctypes.data,
            self.wanted.ctypes.data,
        )
        return int(library().llama_decode(context, whole))


def rows(pointer: Any, n: int, width: int) -> npt.NDArray[np.float32]:
    """A copy of n rows that a C pointer points to."""
    return np.ctypeslib.as_array(pointer, (n, width)).copy()


def tokens_of(vocabulary: int, text: str, special: bool, begin: bool = True) -> list[int]:
    """Token numbers of a text; `special` reads control tokens, `begin` puts the beginning one before it."""
    lib = library()
    raw = text.encode("utf-8")
    room = len(raw) + 8
    out = np.empty(room, np.int32)
    n = lib.llama_tokenize(vocabulary, raw, len(raw), out.ctypes.data, room, begin, special)
    return [int(t) for t in out[:n]]


def pieces_of(vocabulary: int, tokens: Sequence[int], special: bool) -> list[bytes]:
    """Each token's bytes."""
    lib = library()
    buffer = ctypes.create_string_buffer(512)
    out = []
    for token in tokens:
        n = lib.llama_token_to_piece(vocabulary, token, buffer, len(buffer), 0, special)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = lib.llama_token_to_piece(vocabulary, token, buffer, len(buffer), 0, special)
        out.append(buffer.raw[:n])
    return out
