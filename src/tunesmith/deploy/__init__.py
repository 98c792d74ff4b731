"""How a tuned model leaves: exporters with a proof, a model card, a predictor, a server."""

from tunesmith.catalog import Catalog

EXPORTERS = Catalog(
    "exporter",
    safetensors="tunesmith.deploy.export:write_full",
    adapter="tunesmith.deploy.export:write_adapter",
)
