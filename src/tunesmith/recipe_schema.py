"""The JSON Schema by which editors complete and check recipes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.recipe import SHORT, Recipe
from tunesmith.recipe_stages import SECTIONS

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
    _open_stages(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "tunesmith recipe"}


def _open_stages(schema: dict[str, Any]) -> None:
    """Lets a stage leave out what the recipe has, and the recipe what every stage has."""
    definitions, stage = schema["$defs"], schema["$defs"]["Stage"]
    for section in SECTIONS:
        stage["properties"][section] = {"$ref": f"#/properties/{section}"}
    definitions["StageData"] = {key: value for key, value in definitions["DataOptions"].items() if key != "required"}
    short, _ = schema["properties"]["data"]["anyOf"]
    stage["properties"]["data"] = {"anyOf": [short, {"$ref": "#/$defs/StageData"}]}
    stage["required"] = ["name"]
    schema["required"] = ["model"]
    schema["anyOf"] = [{"required": ["task", "data"]}, {"required": ["stages"]}]


def schema_text() -> str:
    """The schema as the shipped file holds it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def _target(schema: Mapping[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]
