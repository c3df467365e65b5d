"""Kinds are known by their names, from when they are added on."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ValidationError

from tiny_transformers.settings.activations import ACTIVATIONS, Activation
from tiny_transformers.settings.kinds import Kinds, KnownNow


def test_settings_take_what_was_added_after_their_class_was_made_and_nothing_else():
    colours = Kinds("colour", str)
    colours.add("red")

    class Paint(BaseModel):
        colour: Annotated[str, KnownNow(colours, lambda: Literal[tuple(colours)])]

    with pytest.raises(ValidationError, match="Input should be 'red'"):
        Paint(colour="blue")
    colours.add("blue")
    assert Paint(colour="blue").model_dump() == {"colour": "blue"}
    assert Paint.model_json_schema()["properties"]["colour"]["enum"] == ["red", "blue"]
    with pytest.raises(ValidationError, match="Input should be 'red' or 'blue'"):
        Paint(colour="green")


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="activation gelu is there already"):
        ACTIVATIONS.add(Activation("gelu", "another"))
    assert ACTIVATIONS["gelu"].title == "GELU"
