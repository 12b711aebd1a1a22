"""What a request asks to be left out of its own history, in the field `context_management`.

Edits of other types are left undone: the history then stays whole, and `applied_edits` does not name them.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .wire_base import Wire

Json = Any

CLEAR_THINKING, CLEAR_TOOL_USES = "clear_thinking_", "clear_tool_uses_"

KeptTurns = Literal["all"] | int
"""Of how many last turns with thoughts the thoughts stay in the prompt."""


class Amount(Wire):
    """A number of tokens of a prompt, or of tool uses."""

    type: Literal["input_tokens", "tool_uses"]
    value: int = Field(ge=0)


class Tokens(Amount):
    """A number of tokens."""

    type: Literal["input_tokens"]


class ToolUses(Amount):
    """A number of tool uses."""

    type: Literal["tool_uses"]


def _none_for_null(names: object) -> object:
    return () if names is None else names


class ToolClearing(Wire):
    """When and of which tool uses the results are left out: of the oldest ones first.

    trigger: the prompt must have more tokens, or the conversation more tool uses. keep: of the last uses.
    exclude_tools: whose uses are not cleared, nor counted among those to keep. clear_tool_inputs: whether the
    calls' arguments go as well, or of which tools.
    """

    type: str
    trigger: Amount = Amount(type="input_tokens", value=100_000)
    keep: ToolUses = ToolUses(type="tool_uses", value=3)
    clear_at_least: Tokens | None = None
    exclude_tools: Annotated[tuple[str, ...], BeforeValidator(_none_for_null)] = ()
    clear_tool_inputs: bool | tuple[str, ...] | None = None

    def clears_input(self, tool: str) -> bool:
        """Return whether the arguments of a tool's calls go as well."""
        wanted = self.clear_tool_inputs
        return tool in wanted if isinstance(wanted, tuple) else bool(wanted)


class ContextEdits(Wire):
    """The edits that a request asks for; of each kind the first.

    kept_thoughts: whose thoughts stay, None where the request does not say.
    """

    kept_thoughts: KeptTurns | None = None
    thinking_type: str = ""
    tool_clearing: ToolClearing | None = None


@dataclass(frozen=True, slots=True)
class EditReport:
    """The edits of a prompt in the API's form, and the tokens that the prompt would have without them."""

    applied: tuple[dict[str, Any], ...]
    num_original: int


def read_edits(management: Json) -> Json:
    """Return the fields of ContextEdits.

    A field that is no list of edits asks for none, and thoughts stay where it is not clear how many go: both
    leave more in the prompt than was asked for, which ends no session. A rule for tool uses that means
    nothing is refused by ToolClearing: it would never be met.
    """
    if not isinstance(management, dict):
        return None
    found = management.get("edits")
    edits = [edit for edit in found if isinstance(edit, dict)] if isinstance(found, list) else []
    thinking = _first(edits, CLEAR_THINKING)
    return {
        "kept_thoughts": _read_keep(thinking.get("keep", 1)) if thinking else None,
        "thinking_type": thinking["type"] if thinking else "",
        "tool_clearing": _first(edits, CLEAR_TOOL_USES),
    }


def _first(edits: list[dict[str, Json]], kind: str) -> dict[str, Json] | None:
    return next((edit for edit in edits if str(edit.get("type", "")).startswith(kind)), None)


def _read_keep(keep: Json) -> KeptTurns | None:
    if isinstance(keep, dict):
        keep = keep.get("value", keep.get("type"))
    if keep == "all":
        return "all"
    return keep if isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1 else None
