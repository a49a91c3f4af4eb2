"""What models that run a GGUF file in this process share: the file, its shape, its identity."""

from __future__ import annotations

from pathlib import Path

from ponder.costs.shape import ModelShape
from ponder.models._local_model import LocalModel
from ponder.models.catalog import model_digest, model_file
from ponder.models.gguf import shape


class GgufModel(LocalModel):
    """A model whose first argument is a name from `ponder models list`, or a path to a `.gguf` file."""

    example = "smollm2-135m or a .gguf path"

    def checked_shape(self) -> tuple[ModelShape | None, int]:
        """The decoder's shape, and the tokens that one sequence may have.

        Raises:
            ParameterError: a setting that no model can be run with.
            ModelNotFoundError: the file is not there.
        """
        self._check_settings()
        found, trained = shape(self.path)
        return found, min(self.context, trained) if trained else self.context

    @property
    def path(self) -> Path:
        """The file.

        Raises:
            ModelNotFoundError: it is not there; says how to get it.
        """
        return model_file(self.source, self.name)

    @property
    def identity(self) -> str:
        """The digest of the weights: the same file under another name is the same model."""
        return f"gguf:{model_digest(self.path)[:24]}"
