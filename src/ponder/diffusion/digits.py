"""A small real diffusion model: handwritten digits of 8 × 8 pixels by class, trained in about a minute on a laptop.

The data are scikit-learn's 1797 digits, cut into two halves. The denoiser and the search classifier learn from one,
the judge from the other and by another method (a support vector machine), so that a search which fools the classifier
it searches with is found out. What was measured is kept beside the weights.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from ponder.diffusion.model import Prediction, as_prediction
from ponder.diffusion.schedule import Floats, Schedule
from ponder.errors import MissingExtraError, ModelError
from ponder.models.catalog import cache_dir

if TYPE_CHECKING:
    import torch

SIDE, CLASSES, NO_CLASS = 8, 10, 10
VERSION = 1
"""Part of the file's name: raise it when training changes."""
_SEED, _STEPS, _BATCH, _WIDTH, _DROPPED = 0, 4000, 256, 256, 0.1


@dataclass(frozen=True)
class Data:
    """Images (n, 64) in [-1, 1] and their classes, of the half for searching and of the half for judging."""

    images: Floats
    labels: Any
    held_images: Floats
    held_labels: Any


@cache
def data() -> Data:
    """The two halves, the same on every machine.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("diffusers:digits", "scikit-learn", "diffusion") from error
    found = load_digits()
    order = np.random.default_rng(_SEED).permutation(len(found.target))
    x, y = found.data[order] / 8.0 - 1.0, found.target[order]
    half = len(y) // 2
    return Data(x[:half], y[:half], x[half:], y[half:])


@cache
def search_classifier(examples: int | None = None, pixels: int | None = None, variant: int = 0) -> Any:
    """Logistic regression on the searching half.

    Args:
        examples: images of each class to learn from; None takes all.
        pixels: pixels that it sees, at random; None is all 64.
        variant: which images and pixels; those of two variants have no image in common, as long as there are enough.
    """
    from sklearn.linear_model import LogisticRegression

    half = data()
    seen, some = np.ones(SIDE * SIDE), np.arange(len(half.labels))
    if examples is not None:
        own = [np.flatnonzero(half.labels == c) for c in range(CLASSES)]
        some = np.concatenate([np.roll(places, -variant * examples)[:examples] for places in own])
    if pixels is not None:
        seen[np.random.default_rng(variant).permutation(SIDE * SIDE)[pixels:]] = 0.0  # weights of what is 0 stay 0
    return LogisticRegression(C=1.0, max_iter=2000).fit(half.images[some] * seen, half.labels[some])


@cache
def judge() -> Any:
    """A support vector machine with a Gaussian kernel on the judging half, its scores calibrated to probabilities."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    half = data()
    machine = SVC(C=10.0, gamma="scale", random_state=_SEED)
    return CalibratedClassifierCV(machine, ensemble=False, cv=5).fit(half.held_images, half.held_labels)


def log_probabilities(classifier: Any, images: Floats) -> Floats:
    """(n, 10) in nats, for images of n · 64 pixels, which are clipped to [-1, 1]; not below log 1e-12."""
    flat = np.clip(np.asarray(images, dtype=float).reshape(len(images), -1), -1.0, 1.0)
    return np.asarray(np.log(np.maximum(classifier.predict_proba(flat), 1e-12)))


def network() -> torch.nn.Module:
    """The denoiser, not trained: pixels, noise level and class in, v out."""
    import torch
    from torch import nn

    class Denoiser(nn.Module):
        """A residual multilayer perceptron."""

        def __init__(self) -> None:
            super().__init__()
            self.label = nn.Embedding(CLASSES + 1, 32)
            self.first = nn.Linear(SIDE * SIDE + 32 + 32, _WIDTH)
            self.middle = nn.ModuleList([nn.Linear(_WIDTH + 64, _WIDTH) for _ in range(3)])
            self.last = nn.Linear(_WIDTH, SIDE * SIDE)

        def forward(self, x: torch.Tensor, angle: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            """X (n, 64), angle (n,) in [0, π/2], label (n,) → (n, 64)."""
            waves = angle[:, None] * (2.0 ** torch.arange(16, dtype=x.dtype) * 0.5)
            told = torch.cat([waves.sin(), waves.cos(), self.label(label)], dim=1)
            h = nn.functional.silu(self.first(torch.cat([x, told], dim=1)))
            for layer in self.middle:
                h = h + nn.functional.silu(layer(torch.cat([h, told], dim=1)))
            answer: torch.Tensor = self.last(h)
            return answer

    return Denoiser()


def train(path: Path, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Train the denoiser, measure it, and write weights and card; both appear whole or not at all.

    The target is v = cos θ · ε - sin θ · x₀ at a uniform angle θ, which weighs all noise levels alike.

    Args:
        path: of the weights (`.safetensors`); the card lies beside it as `.json`.
        say: told what is being done.

    Returns:
        The card.
    """
    try:
        import torch
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingExtraError("training diffusers:digits", "torch", "diffusion") from error

    half, started = data(), time.monotonic()
    images = torch.from_numpy(half.images).float()
    labels = torch.from_numpy(half.labels.astype(np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = network()
        averaged = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
        plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=_STEPS, pct_start=0.05)
        for step in range(_STEPS):
            rows = torch.randint(len(images), (_BATCH,))
            x0, label = images[rows], labels[rows]
            label = torch.where(torch.rand(_BATCH) < _DROPPED, NO_CLASS, label)
            angle, eps = torch.rand(_BATCH) * (math.pi / 2), torch.randn(_BATCH, SIDE * SIDE)
            a, s = angle.cos()[:, None], angle.sin()[:, None]
            loss = ((model(a * x0 + s * eps, angle, label) - (a * eps - s * x0)) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            plan.step()
            with torch.no_grad():
                for name, p in model.named_parameters():
                    averaged[name].lerp_(p, 0.002 if step > 500 else 0.02)
            if step % 1000 == 999:
                say(f"step {step + 1} of {_STEPS}: loss {loss.item():.3f}")
    card = {
        "name": "digits",
        "version": VERSION,
        "parameters": sum(p.numel() for p in averaged.values()),
        "trained_on": f"{len(images)} of scikit-learn's digits, 8x8, scaled to [-1, 1]",
        "training": {"steps": _STEPS, "batch": _BATCH, "seed": _SEED, "seconds": round(time.monotonic() - started, 1)},
        "torch": torch.__version__,
    }
    model.load_state_dict(averaged)
    say("measuring samples")
    card["quality"] = _quality(Digits(model))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    save_file(averaged, scratch)
    beside = scratch.with_suffix(f".json{os.getpid()}")
    beside.write_bytes(orjson.dumps(card, option=orjson.OPT_INDENT_2))
    beside.replace(path.with_suffix(".json"))
    scratch.replace(path)
    return card


def _quality(model: Digits) -> dict[str, Any]:
    """Accuracies on real images, and of plain samples by 20 steps, 50 of each class."""
    half, searcher, referee = data(), search_classifier(), judge()
    rng = np.random.default_rng(1)
    from ponder.diffusion.solvers import ddim

    schedule = Schedule.cosine(20)
    asked = np.repeat(np.arange(CLASSES), 50)
    x = rng.standard_normal((len(asked), SIDE * SIDE))
    for i in range(schedule.steps):
        p = model.predict(x, np.full(len(x), schedule.a[i]), np.full(len(x), schedule.s[i]), asked)
        now, then = ((float(schedule.a[j]), float(schedule.s[j])) for j in (i, i + 1))
        x = ddim(p.x0, p.eps, now, then, 1.0, rng.standard_normal(x.shape))
    log_p = log_probabilities(referee, x)
    found = log_p[np.arange(len(x)), asked]
    return {
        "search_classifier_accuracy_on_held_out": float(searcher.score(half.held_images, half.held_labels)),
        "weak_classifier_accuracy_on_held_out": float(
            search_classifier(examples=3).score(half.held_images, half.held_labels)
        ),
        "judge_accuracy_on_the_other_half": float(referee.score(half.images, half.labels)),
        "samples_the_judge_reads_as_asked": float((log_p.argmax(axis=1) == asked).mean()),
        "judge_log_probability_of_samples": float(found.mean()),
        "sampler": "ddim eta=1, 20 steps, 50 of each class, no guidance",
    }


@dataclass(frozen=True)
class Digits:
    """The trained denoiser."""

    module: Any

    def predict(self, x: Floats, a: Floats, s: Floats, label: Any) -> Prediction:
        """For x (n, 64) at levels a, s (n,), and classes (n,); `NO_CLASS` asks for any digit."""
        import torch

        with torch.inference_mode():
            output = self.module(
                torch.from_numpy(np.ascontiguousarray(x)).float(),
                torch.from_numpy(np.arctan2(s, a)).float(),
                torch.from_numpy(np.asarray(label, dtype=np.int64)),
            )
        return as_prediction(output.double().numpy(), "v_prediction", x, a, s)

    def predict_tensors(self, x: torch.Tensor, a: float, s: float, label: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Data and noise behind x (n, 64), all at one level and of one class; differentiable in x."""
        import torch

        angle = torch.full((len(x),), math.atan2(s, a))
        v = self.module(x.float(), angle, torch.full((len(x),), label)).to(x.dtype)
        return a * x - s * v, a * v + s * x


@dataclass(frozen=True)
class Stored:
    """Where the weights lie."""

    folder: Path

    @cached_property
    def weights(self) -> Path:
        """The file."""
        return self.folder / f"digits-{VERSION}.safetensors"

    @property
    def card(self) -> dict[str, Any]:
        """What was measured."""
        found: dict[str, Any] = orjson.loads(self.weights.with_suffix(".json").read_bytes())
        return found


def stored() -> Stored:
    """In the cache."""
    return Stored(cache_dir() / "models")


@cache
def _loaded(path: Path) -> Digits:
    from safetensors.torch import load_file

    model = network()
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:
        raise ModelError(f"{path} cannot be read ({error}); train it again with: ponder models train digits") from error
    return Digits(model.eval())


def load(say: Callable[[str], None] = lambda _: None) -> Digits:
    """The denoiser from the cache; trained first if it is not there."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("diffusers:digits", "torch", "diffusion") from error
    place = stored().weights
    if not place.is_file():
        say(f"training the digits model once, about a minute; it is kept in {place}")
        train(place, say)
    return _loaded(place)
