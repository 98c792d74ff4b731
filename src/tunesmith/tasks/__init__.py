"""What can be learned: one file a task."""

from tunesmith.catalog import Catalog

TASKS = Catalog(
    "task",
    classification="tunesmith.tasks.classification:Classification",
    regression="tunesmith.tasks.regression:Regression",
)
