"""How many experts a mixture-of-experts model of transformers asks for each token: found, and set for a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ponder.costs.readers import shape_of_config
from ponder.costs.shape import ModelShape
from ponder.errors import ParameterError

_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_SETTINGS = ("top_k", "num_experts_per_tok")


def experts_of(config: Any) -> int:
    """The most experts that a token can be given, 0 for a dense model.

    Where only some groups of experts are open to a token (DeepSeek), it is those groups' experts.
    """
    for name in _COUNTS:
        n = getattr(config, name, None)
        if isinstance(n, int) and n > 1:
            groups, open_ones = (getattr(config, name, None) or 1 for name in ("n_group", "topk_group"))
            return n * open_ones // groups
    return 0


class Routers:
    """The modules of a model that read the number of experts; it is set before a pass and put back after it.

    Args:
        model: of transformers, loaded or empty.

    Attributes:
        default: the model's own number.
    """

    def __init__(self, model: Any) -> None:
        self._places = [
            (module, name, value)
            for module in model.modules()
            for name in _SETTINGS
            if isinstance(value := getattr(module, name, None), int) and not isinstance(value, bool)
        ]
        routers = [value for _, name, value in self._places if name == "top_k"]
        self.default = routers[0] if routers else 0

    @contextmanager
    def at(self, experts: int | None) -> Iterator[None]:
        """The model with so many experts; None leaves its own number."""
        if experts is None:
            yield
            return
        try:
            for module, name, _ in self._places:
                setattr(module, name, experts)
            yield
        finally:
            for module, name, value in self._places:
                setattr(module, name, value)


def routers_of(model: Any) -> Routers | None:
    """The routers, None if the model has no choice among experts."""
    if not experts_of(model.config.get_text_config()):
        return None
    found = Routers(model)
    return found if found.default else None


def shape_of(model: Any) -> ModelShape | None:
    """A model's size, loaded or on torch's `meta` device, its parameters counted; None if its cache holds no heads."""
    config = model.config.get_text_config()
    whole = choices = 0
    for name, parameter in model.named_parameters():
        whole += parameter.numel()
        choices += parameter.numel() * (".experts." in name)
    routers = routers_of(model)
    count = next((n for name in _COUNTS if isinstance(n := getattr(config, name, None), int) and n > 1), 1)
    one = choices // count if routers is not None else 0
    active = routers.default if routers is not None else 0
    idle = choices - active * one if one else 0
    try:
        shape = shape_of_config(config.to_dict(), parameters=whole)
    except ParameterError:
        return None
    experts = {"experts": count, "experts_per_token": active} if one else {"experts": None, "experts_per_token": None}
    return replace(shape, params_active=whole - idle, params_total=whole, **experts)
