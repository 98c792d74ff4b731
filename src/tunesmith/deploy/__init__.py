"""How a tuned model leaves: exporters with a proof, a model card, a predictor, a server."""

from tunesmith.catalog import Catalog

NOTE = "tunesmith.json"
"""The file of an exported model that says what tunesmith needs to load it again."""
EXPORTERS = Catalog(
    "exporter",
    safetensors="tunesmith.deploy.export:write_full",
    adapter="tunesmith.deploy.export:write_adapter",
)
