"""Shortens a kernel's text: MLX hashes all of it at each launch, to find what it has compiled.

That takes the host about 0.5 us a kilobyte, where queueing a launch takes some 8 us otherwise.
"""

import re

COMMENT = re.compile(r"\s*//.*")
BLANKS = re.compile(r"[ \t]+")
WORD = re.compile(r"\w+")
STRUCT = re.compile(r"\bstruct (?:alignas\(.*\) )?(\w+)")
FUNCTION = re.compile(r"(\w+) ?\(")
TYPEDEF = re.compile(r"^typedef .*?(\w+);$", re.DOTALL)


def squeeze(text: str) -> str:
    """Return a text without comments, empty lines and needless blanks."""
    lines = (BLANKS.sub(" ", COMMENT.sub("", line)).strip() for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


def trim(definitions: str, body: str) -> str:
    """Return those of `definitions` that `body` needs, itself or through others; squeezed, in their order.

    definitions: macros, structs, functions and typedefs. Other lines are kept.
    """
    items = _items(squeeze(definitions))
    names = [_names(item) for item in items]
    needed, words = [not own for own in names], set(WORD.findall(body))
    for item, is_needed in zip(items, needed, strict=True):
        words |= set(WORD.findall(item)) if is_needed else set()
    while True:
        found = [i for i, own in enumerate(names) if not needed[i] and own & words]
        if not found:
            return "".join(item for item, is_needed in zip(items, needed, strict=True) if is_needed)
        for i in found:
            needed[i] = True
            words |= set(WORD.findall(items[i]))


def _items(text: str) -> list[str]:
    """Cut squeezed text into definitions, each of whole lines."""
    items, item = [], ""
    for line in text.splitlines(keepends=True):
        item += line
        if item.startswith("#"):
            is_whole = not line.endswith("\\\n")
        else:
            is_whole = line[-2] in ";}" and all(item.count(a) == item.count(b) for a, b in ("{}", "()"))
        if is_whole:
            items.append(item)
            item = ""
    return [*items, item] if item else items


def _names(item: str) -> set[str]:
    """Return what an item defines; nothing for a line that defines nothing."""
    if item.startswith("#"):
        return set(re.findall(r"^#define (\w+)", item))
    head = item.partition("{")[0]
    if found := STRUCT.search(head) or TYPEDEF.search(item.strip()) or FUNCTION.search(head):
        return {found[1]}
    return set()
