"""Anthropic's tools that clients run and name by a type alone: their schemas are public and fixed.

Anthropic's own models know these tools; any other model must be told.
"""

import re
from typing import Any

Json = dict[str, Any]

DATED = re.compile(r"(bash|text_editor|memory)_(\d{8})")

UNDO_UNTIL = "20250124"
"""The newest version of the text editor that can undo."""

TEXT = {"type": "string"}

EDITING = ("view", "create", "str_replace", "insert")
COMMANDS = (
    "view shows a file, or some of its lines, or lists a folder; create writes a file; str_replace replaces "
    "a text that occurs once in a file; insert puts lines behind a line"
)
REPLACED, INSERTED = "For str_replace: the text in its place.", "For insert: the new lines."


def public_tool(kind: str) -> Json | None:
    """Return a tool by its type, with name, description and schema; None for any other type."""
    found = DATED.fullmatch(kind)
    if found is None:
        return None
    family, version = found.groups()
    if family == "bash":
        return _bash()
    return _memory() if family == "memory" else _text_editor(can_undo=version <= UNDO_UNTIL)


def _bash() -> Json:
    return {
        "name": "bash",
        "description": "Runs a command in a bash session that stays open from call to call.",
        "input_schema": {
            "type": "object",
            "properties": {
                "command": TEXT | {"description": "The command to run; needed unless restart is true."},
                "restart": {"type": "boolean", "description": "True starts a new session."},
            },
        },
    }


def _text_editor(can_undo: bool) -> Json:
    shared = _editing("the absolute path of a file or folder")
    undo = "; undo_edit takes back the last change of a file" if can_undo else ""
    if can_undo:
        shared["new_str"] = shared.pop("insert_text") | {"description": f"{REPLACED} {INSERTED}"}
    return {
        "name": "str_replace_editor" if can_undo else "str_replace_based_edit_tool",
        "description": f"Shows and changes files: {COMMANDS}{undo}.",
        "input_schema": _by_command([*EDITING, *["undo_edit"] * can_undo], shared, ["path"]),
    }


def _memory() -> Json:
    renaming = {
        "old_path": TEXT | {"description": "For rename: the path so far."},
        "new_path": TEXT | {"description": "For rename: the path from then on."},
    }
    shared = _editing("a path below /memories, for all commands but rename")
    return {
        "name": "memory",
        "description": (
            "Keeps notes for later conversations in files below /memories, to be read before a task: "
            f"{COMMANDS}; delete removes and rename moves a file or folder."
        ),
        "input_schema": _by_command([*EDITING, "delete", "rename"], shared | renaming, []),
    }


def _by_command(commands: list[str], parameters: Json, required: list[str]) -> Json:
    command = TEXT | {"enum": commands, "description": "What to do."}
    properties = {"command": command, **parameters}
    return {"type": "object", "properties": properties, "required": ["command", *required]}


def _editing(path: str) -> Json:
    """Return the parameters of commands that edit a file."""
    place = "For insert: the line behind which to insert; 0 is the beginning of the file."
    lines = "For view of a file: the first and last line, from 1 on; -1 is the end."
    return {
        "path": TEXT | {"description": f"Of what to show or change: {path}."},
        "view_range": {"type": "array", "items": {"type": "integer"}, "description": lines},
        "file_text": TEXT | {"description": "For create: the file's content."},
        "old_str": TEXT | {"description": "For str_replace: the text to replace."},
        "new_str": TEXT | {"description": REPLACED},
        "insert_line": {"type": "integer", "description": place},
        "insert_text": TEXT | {"description": INSERTED},
    }
