"""The sections of a recipe that choose a part by its `kind`, and carry that part's own options."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from tunesmith.catalog import Catalog
from tunesmith.errors import UserError, shown
from tunesmith.errors import kind as kind_of
from tunesmith.options import Options


@dataclass(frozen=True)
class Part:
    """How a section with a `kind` is read and written: the kind names a class, the other keys are its fields."""

    catalog: Catalog

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.made, serialization=core_schema.plain_serializer_function_ser_schema(self.written)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        what = self.catalog.what
        own = {"type": "string", "pattern": ":", "description": f"A {what} of your own: `package.module:Name`."}
        plain = {"enum": list(self.catalog), "description": f"The {what} with all its defaults."}
        open_part = {"type": "object", "properties": {"kind": own}, "required": ["kind"]}
        return {"anyOf": [plain, own, *(self._kind_schema(kind, handler) for kind in self.catalog), open_part]}

    def _kind_schema(self, kind: str, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Asked of the whole schema's own handler, so that sections inside a part stand among its definitions."""
        part: type[Options] = self.catalog.load(kind)
        schema: dict[str, Any] = {**handler.resolve_ref_schema(handler(part.__pydantic_core_schema__))}
        schema["properties"] = {"kind": {"const": kind}, **schema.get("properties", {})}
        schema["required"] = ["kind", *schema.get("required", [])]
        return schema

    def made(self, value: Any) -> Options:
        """The options of the kind that `value` names. Raises pydantic's errors, placed below this section."""
        if isinstance(value, Options):
            return value
        part = part_class(self.catalog, value)
        return part.model_validate_json(
            json.dumps({key: item for key, item in value.items() if key != "kind"}), strict=True
        )

    def written(self, part: Options) -> dict[str, Any]:
        return {"kind": self.catalog.name_of(type(part)), **part.model_dump(mode="json", by_alias=True)}


def part_class(catalog: Catalog, value: Any) -> type[Options]:
    """The class that a section's `kind` names."""
    if not isinstance(value, Mapping):
        raise said(f"found {kind_of(value)}, expected {{kind: ...}}; known kinds: {', '.join(catalog)}")
    if "kind" not in value:
        raise said(f"key 'kind' is missing; known: {', '.join(catalog)}")
    kind = value["kind"]
    if not isinstance(kind, str):
        raise _of_kind(kind, f"found {kind_of(kind)}, expected one of {', '.join(catalog)}")
    try:
        part = catalog.load(kind)
    except UserError as error:
        raise _of_kind(kind, f"{shown(kind)} {error.found}; {error.fix}") from error
    if not (isinstance(part, type) and issubclass(part, Options)):
        found = f"{shown(kind)} is not a {catalog.what}; it must be a class of tunesmith.options.Options"
        raise _of_kind(kind, found)
    return part


def _of_kind(kind: object, message: str) -> ValidationError:
    details = InitErrorDetails(type=said(message), loc=("kind",), input=kind)
    return ValidationError.from_exception_data("Part", [details])


def said(message: str) -> PydanticCustomError:
    """A fault in our own words, for pydantic to place."""
    return PydanticCustomError("said", "{message}", {"message": message})
