"""Tells whether a call that a client sends back is the call that the model made.

Claude Code changes the model's calls before it runs them and sends the changed ones back. Its changes were
read off version 2.1.330; texts are changed in three of its own tools alone. A call means the same if these
changes, and no others, lead from the model's arguments to the client's.
"""

import json
import re
from collections import abc
from collections.abc import Mapping
from typing import Any

NEW_NAMES = {("Edit", "old_str"): "old_string", ("Edit", "new_str"): "new_string"}
"""Arguments, each of a tool, that the client gives another name."""

FILE_TEXTS = frozenset({("Write", "content"), ("Edit", "new_string")})
"""Arguments, each of a tool, whose lines lose the white space at their ends, unless the file is Markdown."""

MARKDOWN = (".md", ".mdx")

COMMAND = ("Bash", "command")
FOLDER = re.compile(r"cd ((?:/|[A-Za-z]:[\\/])[^\s\"'`$;&|<>*?(){}\[\]!#]{0,1023}) && ")
"""Where a command begins with the session's own folder, the client takes this beginning off."""

OWN_FOLDER = re.compile(r"(?:\bworking directory|\bCWD): (\S[^\n]*)", re.IGNORECASE)
"""What the client says of the session's folder."""

MAX_NAME_CHARS = 64
"""Of a folder's name."""

LINE_END = re.compile(r"(?<![^\S\r\n])[^\S\r\n]++(?=[\r\n]|\Z)")
"""Blanks at a line's end. Each run of blanks is looked at once: its length may be a megabyte."""

NOTHING = object()


def own_folders(texts: abc.Iterable[str]) -> frozenset[str]:
    """Return the folders that a session's texts name as its own."""
    return frozenset(found.rstrip(" .") for text in texts for found in OWN_FOLDER.findall(text))


def folder_name(texts: abc.Iterable[str]) -> str:
    """Return the last name of the path of a session's folder, of which texts tell; empty where none does.

    The rest of the path says more of the user than anybody who looks at a list of sessions needs to know.
    """
    found = next((match for text in texts if (match := OWN_FOLDER.search(text))), None)
    names = re.split(r"[/\\]", found[1].rstrip(" ./\\")) if found else [""]
    return "".join(char for char in names[-1] if char.isprintable())[:MAX_NAME_CHARS]


def same_arguments(
    tool: str,
    made: Mapping[str, Any],
    sent: Mapping[str, Any],
    schema: Mapping[str, Any],
    folders: abc.Collection[str] = (),
) -> bool:
    """Return whether `sent`, a client's arguments of a tool's call, stand for `made`, the model's.

    schema: the tool's JSON schema; empty where the request does not have the tool. folders: the session's.
    The order of the keys makes no difference. A client may add what the schema names as a default, and drop
    what it does not name.
    """
    found = schema.get("properties")
    properties: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    named = {_new_name(tool, key, properties): value for key, value in made.items()}
    texts = FILE_TEXTS if not str(made.get("file_path", "")).lower().endswith(MARKDOWN) else ()
    for key in {**named, **sent}:
        if key not in sent:
            if not properties or key in properties:
                return False
        elif key not in named:
            if not _is_default(sent[key], properties.get(key)):
                return False
        elif _same(named[key], sent[key]):
            continue
        elif not isinstance(named[key], str) or not isinstance(sent[key], str):
            return False
        elif (tool, key) == COMMAND:
            if not _same_command(named[key], sent[key], folders):
                return False
        elif (tool, key) not in texts or LINE_END.sub("", named[key]) != LINE_END.sub("", sent[key]):
            return False
    return True


def _new_name(tool: str, key: str, properties: Mapping[str, Any]) -> str:
    name = NEW_NAMES.get((tool, key), key)
    return name if name in properties and key not in properties else key


def _is_default(value: Any, schema: Any) -> bool:
    """Return whether a value is what its schema makes of a missing one."""
    if not isinstance(schema, Mapping):
        return False
    default = schema.get("default", False if schema.get("type") == "boolean" else NOTHING)
    return type(default) is type(value) and bool(default == value)


def _same(made: Any, sent: Any) -> bool:
    """Return whether two values are the same but for quotes around a number, switch, list or object."""
    if isinstance(made, str):
        return made == sent if isinstance(sent, str) else _is_quoted(made, sent)
    if isinstance(made, dict) and isinstance(sent, dict):
        return made.keys() == sent.keys() and all(_same(made[name], sent[name]) for name in made)
    if isinstance(made, list) and isinstance(sent, list):
        return len(made) == len(sent) and all(map(_same, made, sent))
    return isinstance(made, bool) == isinstance(sent, bool) and bool(made == sent)


def _is_quoted(made: str, sent: Any) -> bool:
    try:
        value = json.loads(made)
    except (ValueError, RecursionError):
        return False
    return value is not None and not isinstance(value, str) and _same(value, sent)


def _same_command(made: str, sent: str, folders: abc.Collection[str]) -> bool:
    made = made.replace("\\\\;", "\\;")
    folder = FOLDER.match(made)
    return sent == made or (folder is not None and folder[1] in folders and sent == made[folder.end() :])
