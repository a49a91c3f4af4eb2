"""Rules by which an answer is compared with a reference: one file each."""

from ponder.tasks.graders.base import GRADERS, Grader, grader

__all__ = ["GRADERS", "Grader", "grader"]
