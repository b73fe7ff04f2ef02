"""The JSON Schemas of what a codec writes, and of what is given as an input."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from .strict import is_closed


class AsGiven(GenerateJsonSchema):
    """Of inputs, as ``strict`` validates them: without unknown keys, unless a type says otherwise."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        return self._closed(super().model_schema(schema), schema)

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        return self._closed(super().dataclass_schema(schema), schema)

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        return self._closed(super().typed_dict_schema(schema), schema)

    def _closed(
        self,
        found: JsonSchemaValue,
        schema: core_schema.ModelSchema | core_schema.DataclassSchema | core_schema.TypedDictSchema,
    ) -> JsonSchemaValue:
        if is_closed(cast("dict[str, Any]", schema)) and "properties" in found:
            found.setdefault("additionalProperties", False)
        return found


class AsWritten(GenerateJsonSchema):
    """Of what is always written, though it may be left out when it is given; under the names that are written.

    Pydantic writes names, and aliases only where a type's own configuration says so; its schemas tell
    aliases everywhere or nowhere.
    """

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,
    ) -> bool:
        if field["type"] == "typed-dict-field":
            return super().field_is_required(field, total)
        return field.get("serialization_exclude_if") is None

    def named_tuple_schema(self, schema: core_schema.NamedTupleSchema) -> JsonSchemaValue:
        found = super().named_tuple_schema(schema)
        return {**found, "minItems": found["maxItems"]}

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        with self._names_in(cast("type[BaseModel]", schema["cls"]).model_config):
            return super().model_schema(schema)

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        with self._names_in(_configuration(schema["cls"])):
            return super().dataclass_schema(schema)

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        with self._names_in(_configuration(schema.get("cls"))):
            return super().typed_dict_schema(schema)

    @contextmanager
    def _names_in(self, configuration: ConfigDict) -> Generator[None]:
        before, self.by_alias = self.by_alias, configuration.get("serialize_by_alias") is True
        try:
            yield
        finally:
            self.by_alias = before


def _configuration(type: object) -> ConfigDict:
    found: ConfigDict | None = getattr(type, "__pydantic_config__", None)
    return found or ConfigDict()
