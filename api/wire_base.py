"""The base of all types of a request's body, and what all of them share."""

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """Base of all parts of a request; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


def one_block(content: object) -> object:
    """Turn a plain string into one text block: clients use both forms."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def no_blocks(content: object) -> object:
    """Do what `one_block` does, and turn null into no block."""
    return [] if content is None else one_block(content)


def false_for_null(value: object) -> object:
    """Return False for null, which some clients send for a switch that is off."""
    return False if value is None else value
