"""The wordings of users' requests, put together from phrases.

A text is quoted in one of several ways, or stands bare where the words around it show where it ends.
"""

import random
import re
from collections import abc

from pensieve.scripts.demo_model import chatter, phrases

QUOTES = (('"', '"'), ("`", "`"), ("'", "'"))
LEADS = ("",) * 5 + (
    "Please ",
    "please ",
    "Now ",
    "Now ",
    "Then ",
    "Next, ",
    "And now ",
    "Can you ",
    "Could you please ",
)
TRAILS = ("",) * 5 + (
    " Nothing else.",
    " Be brief.",
    " Do not explain.",
    " Answer with that only.",
    " Thanks!",
)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
SEPARATORS = (" with ", " to ", " by ", " in ", " into ", " so that ", " becomes ", " and ", ". ", "\n")

REPORTS = {"all": phrases.REPORT_ALL, "first": phrases.REPORT_FIRST, "last": phrases.REPORT_LAST}
TALK = {"hello": chatter.HELLO, "who": chatter.WHO, "thanks": chatter.THANKS}


def quoted(rng: random.Random, *texts: str) -> list[str] | None:
    """Put all texts in quotes of one kind that no text holds; None where each kind is taken."""
    free = [pair for pair in QUOTES if not any(pair[0] in text for text in texts)]
    if not free:
        return None
    left, right = rng.choice(free)
    return [f"{left}{text}{right}" for text in texts]


def led(rng: random.Random, request: str) -> str:
    """Complete a request that begins with a verb, with or without a polite word before it."""
    lead = rng.choice(LEADS)
    text = lead + request if lead else request[0].upper() + request[1:]
    return text.rstrip(".") + "?" if lead.startswith(("Can", "Could")) and text.endswith(".") else text


def run(rng: random.Random, command: str, part: str) -> str:
    """Ask to run a command and to report a part of its output: all, first or last."""
    report = rng.choice(REPORTS[part])
    marked = quoted(rng, command)
    style = rng.random()
    if style < 0.18:
        return rng.choice(phrases.RUN_ENDS).format(report=report, c=command)
    if style < 0.26 and part == "all":
        return rng.choice(phrases.BARE_ENDS).format(c=marked[0] if marked and rng.random() < 0.4 else command)
    if style < 0.34 and part == "all" and marked:
        return rng.choice(phrases.RUN_QUESTIONS).format(q=marked[0])
    shown = marked[0] if marked and rng.random() < 0.5 else command
    target = rng.choice(phrases.RUN_OBJECTS).format(shown)
    joint = rng.choice((" and ", " and ", " and ", ", then ", " and then ", ", and "))
    end = rng.choice((".", ".", ""))
    request = led(rng, f"{rng.choice(phrases.RUN_VERBS)} {target}{joint}{report}{end}")
    return request + (rng.choice(TRAILS) if end else "")


def line_name(rng: random.Random, part: str, number: int) -> str:
    """Draw a line's name: first line, last line, line 3, third line."""
    if part in ("first", "last"):
        return f"{part} line"
    if 1 < number <= len(ORDINALS) and rng.random() < 0.3:
        return f"{ORDINALS[number - 1]} line"
    return f"line {number}" if rng.random() < 0.9 else f"line number {number}"


def read(rng: random.Random, path: str, part: str, number: int = 0) -> str:
    """Ask to read a file and to quote a part of it: all, first, last, or the line of a number."""
    marked = quoted(rng, path)
    shown = marked[0] if marked and rng.random() < 0.25 else path
    line = line_name(rng, part, number)
    questions, wants = (
        (phrases.ALL_QUESTIONS, phrases.ALL_WANTS)
        if part == "all"
        else (phrases.LINE_QUESTIONS, phrases.LINE_WANTS)
    )
    if rng.random() < 0.3:
        return articles(rng.choice(questions).format(line=line, p=shown))
    want = rng.choice(wants).format(line=line)
    target = rng.choice(("the file {}", "the file {}", "{}", "this file: {}")).format(shown)
    joint = rng.choice((" and ", " and ", ", then ", " and then ", ". Then "))
    end = rng.choice((".", ".", ""))
    request = led(rng, f"{rng.choice(phrases.READ_VERBS)} {target}{joint}{want}{end}")
    return articles(request) + (rng.choice(TRAILS) if end else "")


def articles(request: str) -> str:
    """Drop the article before 'line 3'; 'the first line' keeps it."""
    for word in ("the", "its"):
        request = request.replace(f"{word} line ", "line ")
    return request


def plain(text: str) -> bool:
    """Return whether the words around a text without quotes show where it begins and ends."""
    return re.fullmatch(r"[\w ./:=+-]*[\w=+-]", text) is not None and not any(
        sign in text for sign in SEPARATORS
    )


def edit(rng: random.Random, path: str, old: str, new: str) -> str:
    """Ask to replace one text with another in a file."""
    marked = quoted(rng, old, new)
    bare = all(plain(text) for text in (old, new))
    if marked and (not bare or rng.random() < 0.75):
        old, new = marked
    elif not bare:
        # No quotes are free: fenced lines show where each text ends.
        return f"In the file {path}, replace this text:\n{old}\nwith this text:\n{new}"
    if rng.random() < 0.15 and not any(sign in path for sign in "'`\""):
        path = rng.choice(QUOTES)[0].join(("", path, ""))
    request = rng.choice(phrases.EDIT_FORMS).format(p=path, a=old, b=new)
    if rng.random() < 0.2 and not request.startswith("In"):
        request = led(rng, request[0].lower() + request[1:])
    if rng.random() < 0.15:
        return request.rstrip(".") if request.endswith((".", "?")) else request
    return request + (rng.choice(TRAILS) if request.endswith(".") else "")


def say(rng: random.Random, text: str) -> str:
    """Ask for a text to be written out."""
    marked = quoted(rng, text)
    if marked and rng.random() < 0.3:
        return rng.choice(chatter.SAY_QUOTED).format(marked[0])
    form = rng.choice(chatter.SAY_ENDS)
    return (form.replace(": {}", ":\n{}") if rng.random() < 0.15 or "\n" in text else form).format(text)


def count(rng: random.Random, low: int, high: int) -> str:
    """Ask to count."""
    return rng.choice(chatter.COUNTS).format(low, high)


def talk(rng: random.Random, kind: str) -> str:
    """Draw a greeting, a question about the model, or thanks, in careless or careful spelling."""
    text = rng.choice(TALK[kind])
    text = text if rng.random() < 0.4 else text[0].upper() + text[1:]
    ends: abc.Sequence[str] = (
        ("?", "", "?") if kind == "who" else ("", "!", ".", "?" if "how are" in text else "!")
    )
    return text + rng.choice(ends)


def other(rng: random.Random, topic: str) -> str:
    """Draw something the model cannot do."""
    return rng.choice(chatter.OTHERS).format(topic)
