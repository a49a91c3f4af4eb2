"""Reward models as their authors published them: one file of tensors, whose names are translated to ours.

Only tensors are read (safetensors, or `torch.load(weights_only=True)`): no file can run code here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ponder.engine.threads import quiet_threads
from ponder.errors import ModelError, ModelNotFoundError

if TYPE_CHECKING:
    from torch import Tensor

    from ponder.verifiers._reward_model import Precision

Tensors = dict[str, "Tensor"]

_WRAPPINGS = ("state_dict", "model")
_HEAD = (0, 2, 4, 6, 7)
"""Places of the linear layers in the published heads: dropouts are between them, and nothing that bends."""


def checkpoint_file(source: str) -> Path:
    """The file that is meant: a path, or `ORGANISATION/NAME/FILE` on the model hub, fetched if need be.

    Raises:
        ModelNotFoundError: there is no such file.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    parts = source.split("/")
    if path.is_dir() or len(parts) < 3 or source.startswith((".", "/", "~")):
        kind = "a directory; give the file in it" if path.is_dir() else "no file here"
        raise ModelNotFoundError(f"{source} is {kind}. A file, or ORGANISATION/NAME/FILE on the model hub is expected")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
    except Exception as error:
        raise ModelNotFoundError(
            f"{source} is no file here and cannot be fetched from the model hub: {error}"
        ) from None


def read_tensors(path: Path) -> Tensors:
    """The tensors of a file by name, out of a training run's `state_dict` or `model` where they are in one.

    Raises:
        ModelError: it cannot be read, or holds more than tensors and plain data.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            held: Any = load_file(path)
        else:
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or unsafe file makes the readers raise
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{path} cannot be read as plain tensors: {reason}") from None
    for name in _WRAPPINGS:
        if isinstance(held, Mapping) and isinstance(held.get(name), Mapping):
            held = held[name]
    found = {k: v for k, v in held.items() if isinstance(v, torch.Tensor)} if isinstance(held, Mapping) else {}
    if not found:
        raise ModelError(f"{path} holds no tensors by name")
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}


def under(tensors: Tensors, prefix: str) -> Tensors:
    """Those whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def need(tensors: Tensors, names: Iterable[str], path: Path, kind: str) -> list[tuple[int, ...]]:
    """Shapes of tensors that must be there.

    Raises:
        ModelError: one is not.
    """
    wanted = list(names)
    if missing := [name for name in wanted if name not in tensors]:
        some = ", ".join(list(tensors)[:3])
        raise ModelError(f"{path} is no {kind}: there is no {missing[0]} (it holds {some}, …)")
    return [tuple(tensors[name].shape) for name in wanted]


def renamed(tensors: Tensors, rules: Sequence[tuple[str, str]]) -> Tensors:
    """With each name rewritten by all rules (pattern, replacement) in order."""
    found = {}
    for name, tensor in tensors.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        found[name] = tensor
    return found


def layers(tensors: Tensors, pattern: str) -> int:
    """How many layers there are, counted by the number in a pattern that names begin with."""
    return 1 + max((int(m[1]) for name in tensors if (m := re.match(pattern, name))), default=-1)


def filled(kind: Any, config: Any, tensors: Tensors, path: Path, precision: Precision, **options: Any) -> Any:
    """A model of transformers with exactly these tensors in it.

    Raises:
        ModelError: some are missing, not known to it, or of another shape.
    """
    import transformers

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with quiet_threads():
            dtype = next(iter(tensors.values())).dtype if precision == "auto" else precision
            model, report = kind.from_pretrained(
                None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True, **options
            )
    except RuntimeError as error:  # sizes that do not fit
        raise ModelError(f"{path} does not fit a {kind.__name__}: {' '.join(str(error).split())[:300]}") from None
    finally:
        transformers.logging.set_verbosity(level)
    for trouble, names in (("lacks", report["missing_keys"]), ("holds unknown", report["unexpected_keys"])):
        if names:
            raise ModelError(
                f"{path} {trouble} {len(names)} tensors of a {kind.__name__} ({sorted(names)[0]}, …): "
                "is it a checkpoint of this kind, and whole?"
            )
    return model.eval().requires_grad_(False)


def linear_head(tensors: Tensors, path: Path, device: Any) -> Callable[[Tensor], Tensor]:
    """The published head: five linear layers one after the other, `layers.0` to `layers.7`; (n, width) to (n,).

    Raises:
        ModelError: other layers are there, or their sizes do not follow each other.
    """
    import torch

    names = [f"layers.{i}.{part}" for i in _HEAD for part in ("weight", "bias")]
    need(tensors, names, path, "reward head of five linear layers")
    if more := sorted(set(tensors) - set(names)):
        raise ModelError(f"{path}: {more[0]} is no part of a reward head of five linear layers")
    pairs = [tuple(tensors[f"layers.{i}.{p}"].to(device, torch.float32) for p in ("weight", "bias")) for i in _HEAD]
    reads = [*(weight.shape[-1] for weight, _ in pairs[1:]), 1]
    if any(w.dim() != 2 or w.shape[0] != out or b.shape != (out,) for (w, b), out in zip(pairs, reads, strict=True)):
        raise ModelError(f"{path}: the layers of the reward head do not follow each other, or give more than a number")

    def head(x: Tensor) -> Tensor:
        for weight, bias in pairs:
            x = torch.nn.functional.linear(x, weight, bias)
        return x[:, 0]

    return head
