"""The exact bench for samplers: Gaussian mixtures, rewards that tilt them, and how far a result is from the truth.

```python
import numpy as np
import ponder
from ponder.testing import gmm

mixture, reward = gmm.INSTANCES["ring"]
target, log_z = gmm.tilted(mixture, reward)
result = ponder.solve("x", model="gmm:ring", process="denoising(steps=10)",
                      strategy="fk_steering(n=100, verifier=gmm_reward, strength=1, potential=difference)")
x, weights = gmm.weighted(result)
print(gmm.mmd_squared(x, target.sample(1000, np.random.default_rng(0)), weights))
```

The models `gmm:NAME` and the verifier `gmm_reward` are the same mixtures for strategies; `ponder.models.gmm.Gmm` takes
one of your own.
"""

from __future__ import annotations

import numpy as np

from ponder.core.strategy import Result
from ponder.diffusion.gmm import INSTANCES, Bumps, Linear, Mixture, Quadratic, Reward, soft_value, tilted
from ponder.diffusion.measures import mmd_squared, sliced_wasserstein, total_variation
from ponder.diffusion.schedule import Floats

__all__ = [
    "INSTANCES",
    "Bumps",
    "Linear",
    "Mixture",
    "Quadratic",
    "Reward",
    "mmd_squared",
    "sliced_wasserstein",
    "soft_value",
    "tilted",
    "total_variation",
    "weighted",
]


def weighted(result: Result) -> tuple[Floats, Floats]:
    """Outputs (n, d) and their weights (n,), which sum to 1.

    The weights are the scores `weight` that particle filters and trees give. Where no candidate has one, all outputs
    count alike. Candidates that failed are left out.
    """
    kept = [c for c in result.candidates if c.error is None]
    x = np.asarray([c.output for c in kept], dtype=float)
    if any("weight" in c.scores for c in kept):
        weights = np.asarray([c.scores.get("weight", 0.0) for c in kept])
    else:
        weights = np.full(len(kept), 1.0 / max(len(kept), 1))
    return x, weights
