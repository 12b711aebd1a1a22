"""Rewrites statements of a chat template that change a list, which the sandbox of templates forbids.

Kimi K2's template collects ids in a namespace's list. Such a statement becomes one that gives the namespace a
new list: a template may do that in any case, and the sandbox stays as it is.
"""

import re

LIST = r"(?P<list>[A-Za-z_]\w*\.[A-Za-z_]\w*)"
CHANGE = re.compile(
    rf"\{{%(?P<begin>-?)\s*set\s+(?P<name>[A-Za-z_]\w*)\s*=\s*{LIST}\.(?P<method>append|extend|pop)"
    r"\((?P<value>.*?)\)\s*(?P<end>-?)%\}",
)


def without_changes(template: str) -> str:
    """Return a template that gives its namespaces new lists instead of changing those that they have."""
    return CHANGE.sub(_new_list, template)


def _new_list(statement: re.Match[str]) -> str:
    values, value = statement["list"], statement["value"].strip()
    match statement["method"], value:
        case "pop", "0":
            parts = [f"{statement['name']} = {values}[0]", f"{values} = {values}[1:]"]
        case "pop", ("" | "-1"):
            parts = [f"{statement['name']} = {values}[-1]", f"{values} = {values}[:-1]"]
        case "append", _:
            parts = [f"{values} = {values} + [{value}]"]
        case "extend", _:
            parts = [f"{values} = {values} + ({value}) | list"]
        case _:
            return statement[0]
    tags = " %}{% ".join(f"set {part}" for part in parts)
    return f"{{%{statement['begin']} {tags} {statement['end']}%}}"
