"""What can be learned: one file a task."""

from tunesmith.catalog import Catalog

TASKS = Catalog(
    "task",
    chat="tunesmith.tasks.chat:Chat",
    classification="tunesmith.tasks.classification:Classification",
    code="tunesmith.tasks.code:Code",
    generation="tunesmith.tasks.generation:Generation",
    language="tunesmith.tasks.language:Language",
    multi_task="tunesmith.tasks.multi_task:MultiTask",
    multiple_choice="tunesmith.tasks.multiple_choice:MultipleChoice",
    ner="tunesmith.tasks.ner:NER",
    preference="tunesmith.tasks.preference:Preference",
    prompted="tunesmith.tasks.prompted:Prompted",
    regression="tunesmith.tasks.regression:Regression",
    span_qa="tunesmith.tasks.span_qa:SpanQA",
)
