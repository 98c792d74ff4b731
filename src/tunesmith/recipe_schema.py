"""The JSON Schema by which editors complete and check recipes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.recipe import SHORT, Recipe

SCHEMA_FILE = Path(__file__).with_name("recipe.schema.json")
"""The schema as it is shipped; `tunesmith schema` prints what it must hold."""


def json_schema() -> dict[str, Any]:
    """The schema of a whole recipe, every kind of task and method and every short form included."""
    schema = Recipe.model_json_schema()
    properties, definitions = schema["properties"], schema["$defs"]
    for section in ("model", "data", "deploy"):
        name = _target(properties[section])
        short = {
            key: value for key, value in definitions[name]["properties"][SHORT[section]].items() if key != "default"
        }
        description = properties[section].get("description", definitions[name]["description"])
        properties[section] = {"anyOf": [short, {"$ref": f"#/$defs/{name}"}], "description": description}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "tunesmith recipe"}


def schema_text() -> str:
    """The schema as the shipped file holds it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def _target(schema: Mapping[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]
