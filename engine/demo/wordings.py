"""How users may word what they want: the grammar of the requests.

A text is quoted in one of several ways, or stands bare where the words around it show where it ends.
"""

import random
import re
from collections.abc import Sequence

QUOTES = (('"', '"'), ("`", "`"), ("'", "'"))
LEADS = (
    "",
    "",
    "",
    "",
    "",
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
TRAILS = (
    "",
    "",
    "",
    "",
    "",
    " Nothing else.",
    " Be brief.",
    " Do not explain.",
    " Answer with that only.",
    " Thanks!",
)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")

RUN_VERBS = ("run", "run", "run", "execute", "use Bash to run", "use the Bash tool to run", "start")
RUN_OBJECTS = (
    "{}",
    "the command {}",
    "the command {}",
    "the shell command {}",
    "the bash command {}",
    "this command: {}",
)
RUN_ENDS = (
    "Run this command and {report}: {c}",
    "Run this command and {report}:\n{c}",
    "Run the following command and {report}:\n\n{c}",
    "Run the following shell command, then {report}: {c}",
    "Use the Bash tool to run this command, and {report}:\n{c}",
    "Execute this and {report}: {c}",
    "Run this command and {report}:\n```\n{c}\n```",
    "Run this and {report}:\n```bash\n{c}\n```",
)
BARE_ENDS = (
    "Run {c}",
    "run {c}",
    "Run: {c}",
    "Run the command {c}",
    "Execute {c}",
    "Please run {c}",
    "Now run {c}",
    "Then run {c}",
)
RUN_QUESTIONS = (
    "What does {q} print?",
    "What is the output of {q}?",
    "What does the command {q} print?",
    "Tell me what {q} prints.",
)
REPORTS = {
    "all": """report its output|report its output|report the output|tell me its output|tell me the output
tell me what it prints|tell me what it printed|show me the output|show its output|give me its output|print its output
quote its output|repeat its output|answer with its output|report what it prints|reply with its output|say what it prints
report its output exactly|show me what it prints|output the result""".replace("\n", "|").split("|"),
    "first": """quote the first line of its output|tell me the first line of its output|report the first line of the output
report only the first line of its output|repeat the first line of its output|quote its first line of output
answer with the first line of its output|show me the first line of the output""".replace("\n", "|").split(
        "|"
    ),
    "last": """quote the last line of its output|tell me the last line of its output|report the last line of the output
report only the last line of its output|answer with the last line of its output""".replace("\n", "|").split(
        "|"
    ),
}

READ_VERBS = ("read", "read", "read", "open", "look at", "use the Read tool to read", "use Read to read")
LINE_WANTS = """quote its {line}|quote its {line}|quote the {line}|tell me its {line}|tell me the {line}|report its {line}
report the {line}|repeat the {line}|show me the {line}|give me the {line}|answer with its {line}|quote {line} exactly
tell me what its {line} says|print its {line}|reply with the {line}""".replace("\n", "|").split("|")
LINE_QUESTIONS = (
    "What is the {line} of {p}?",
    "What is the {line} of the file {p}?",
    "Quote the {line} of {p}.",
    "Quote the {line} of the file {p}.",
    "Tell me the {line} of {p}.",
    "What does the {line} of {p} say?",
    "Read the {line} of the file {p} and quote it.",
    "Show me the {line} of {p}.",
)
ALL_WANTS = """tell me what it says|quote its contents|quote all of it|show me its contents|report its content
tell me its contents|quote its content exactly|repeat its contents|report what it says|show it to me""".replace(
    "\n", "|"
).split("|")
ALL_QUESTIONS = (
    "What does {p} say?",
    "What is in the file {p}?",
    "What does the file {p} contain?",
    "Show me the contents of {p}.",
    "Show me the file {p}.",
    "What are the contents of {p}?",
)

EDIT_FORMS = (
    "In the file {p}, replace {a} with {b}.",
    "In the file {p}, replace {a} with {b}.",
    "In {p}, replace {a} with {b}.",
    "In {p} replace {a} by {b}.",
    "In {p}, change {a} to {b}.",
    "In the file {p} change {a} to {b}.",
    "In the file {p}, replace the text {a} with {b}.",
    "In {p}, replace the text {a} with the text {b}.",
    "Edit {p}: replace {a} with {b}.",
    "Edit {p}: change {a} to {b}.",
    "Edit the file {p}: replace {a} with {b}.",
    "Edit the file {p}: change {a} to {b}.",
    "Edit the file {p} and replace {a} with {b}.",
    "Edit the file {p} and change {a} to {b}.",
    "Edit the file {p} so that {a} becomes {b}.",
    "Open {p} and replace {a} with {b}.",
    "Read {p}, then replace {a} with {b}.",
    "Read the file {p} and replace {a} with {b}.",
    "Read {p} and change {a} to {b} in it.",
    "Replace {a} with {b} in {p}.",
    "Replace {a} with {b} in the file {p}.",
    "Replace {a} by {b} in the file {p}.",
    "Replace the text {a} with {b} in the file {p}.",
    "Replace the word {a} with {b} in {p}.",
    "Replace the line {a} with {b} in {p}.",
    "Replace the string {a} with the string {b} in the file {p}.",
    "Change {a} to {b} in {p}.",
    "Change {a} to {b} in the file {p}.",
    "Change {a} into {b} in the file {p}.",
    "Use the Edit tool to replace {a} with {b} in {p}.",
    "Use the Edit tool to change {a} to {b} in the file {p}.",
    "Edit {p}. Replace {a} with {b}.",
    "Edit the file {p}. Change {a} to {b}.",
)
SEPARATORS = (" with ", " to ", " by ", " in ", " into ", " so that ", " becomes ", " and ", ". ", "\n")

SAY_ENDS = """Write out exactly: {}|Write out exactly: {}|Write out exactly this text: {}|Write exactly: {}|Say exactly: {}
Say exactly this: {}|Repeat exactly: {}|Repeat after me: {}|Reply with exactly: {}|Reply with exactly this text: {}
Write this out exactly: {}|Answer with exactly this: {}|Output exactly: {}|Please write out exactly: {}|Say: {}
Now write out exactly: {}|Echo this text: {}|Write out the following exactly: {}|Copy this text exactly: {}""".replace(
    "\n", "|"
).split("|")
SAY_QUOTED = """Write out exactly {}.|Write out exactly {}|Say {}.|Say exactly {}.|Repeat {} exactly.|Reply with exactly {}.
Reply with exactly {} and nothing else.|Answer with {} and nothing else.|Write {}.|Please say {}.|Just say {}.""".replace(
    "\n", "|"
).split("|")

COUNTS = """Count from {} to {}.|Count from {} to {}|Count from {} to {}.|Count up from {} to {}.|count from {} to {}
Please count from {} to {}.|Now count from {} to {}.|And count from {} to {}.|Can you count from {} to {}?
Write the numbers from {} to {}.|List the numbers from {} to {}.|Then count from {} to {}""".replace(
    "\n", "|"
).split("|")

TALK = {
    "hello": """hello|hi|hey|good morning|good evening|good afternoon|hello there|hi there|hey there|greetings|howdy
hello again|good day|hello, how are you|hi, how are you doing|how are you|say hello|nice to meet you""".replace(
        "\n", "|"
    ).split("|"),
    "who": """who are you|what are you|what is your name|what model are you|which model are you|what can you do
tell me who you are|who made you|introduce yourself|what is this|help""".replace("\n", "|").split("|"),
    "thanks": """thanks|thank you|thanks a lot|thank you very much|great, thanks|ok thanks|perfect, thank you|good job
well done""".replace("\n", "|").split("|"),
}
OTHERS = """What is {}?|Explain {}.|Why is {} so important?|Write a poem about {}.|Write a function for {}|How does {} work?
Tell me a story about {}.|Translate {} into French.|Who invented {}?|Summarize {}.|Refactor {}.|Fix the bug in {}.|Plan {}
Do you like {}?|What do you think of {}?|Write tests for {}.|{}|Is {} better than coffee?|Describe {}.|{}?
Find all places where {} is used.|Create a new project for {}.|Make {} faster.""".replace("\n", "|").split(
    "|"
)


def quoted(rng: random.Random, *texts: str) -> list[str] | None:
    """The texts in quotes of one kind that none of them holds, or nothing where each kind is taken."""
    free = [pair for pair in QUOTES if not any(pair[0] in text for text in texts)]
    if not free:
        return None
    left, right = rng.choice(free)
    return [f"{left}{text}{right}" for text in texts]


def led(rng: random.Random, request: str) -> str:
    """The request, which begins with a verb, with or without a polite word before it."""
    lead = rng.choice(LEADS)
    text = lead + request if lead else request[0].upper() + request[1:]
    return text.rstrip(".") + "?" if lead.startswith(("Can", "Could")) and text.endswith(".") else text


def run(rng: random.Random, command: str, part: str) -> str:
    """Ask to run a command and to report a part of its output: all, first or last."""
    report = rng.choice(REPORTS[part])
    marked = quoted(rng, command)
    style = rng.random()
    if style < 0.18:
        return rng.choice(RUN_ENDS).format(report=report, c=command)
    if style < 0.26 and part == "all":
        return rng.choice(BARE_ENDS).format(c=marked[0] if marked and rng.random() < 0.4 else command)
    if style < 0.34 and part == "all" and marked:
        return rng.choice(RUN_QUESTIONS).format(q=marked[0])
    shown = marked[0] if marked and rng.random() < 0.5 else command
    target = rng.choice(RUN_OBJECTS).format(shown)
    joint = rng.choice((" and ", " and ", " and ", ", then ", " and then ", ", and "))
    end = rng.choice((".", ".", ""))
    request = led(rng, f"{rng.choice(RUN_VERBS)} {target}{joint}{report}{end}")
    return request + (rng.choice(TRAILS) if end else "")


def line_name(rng: random.Random, part: str, number: int) -> str:
    """How a line is named: first line, last line, line 3, third line."""
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
    questions, wants = (ALL_QUESTIONS, ALL_WANTS) if part == "all" else (LINE_QUESTIONS, LINE_WANTS)
    if rng.random() < 0.3:
        return articles(rng.choice(questions).format(line=line, p=shown))
    want = rng.choice(wants).format(line=line)
    target = rng.choice(("the file {}", "the file {}", "{}", "this file: {}")).format(shown)
    joint = rng.choice((" and ", " and ", ", then ", " and then ", ". Then "))
    end = rng.choice((".", ".", ""))
    request = led(rng, f"{rng.choice(READ_VERBS)} {target}{joint}{want}{end}")
    return articles(request) + (rng.choice(TRAILS) if end else "")


def articles(request: str) -> str:
    """Drop the article before 'line 3'; 'the first line' keeps it."""
    for word in ("the", "its"):
        request = request.replace(f"{word} line ", "line ")
    return request


def plain(text: str) -> bool:
    """Whether the words around a text without quotes show where it begins and ends."""
    return re.fullmatch(r"[\w ./:=+-]*[\w=+-]", text) is not None and not any(sign in text for sign in SEPARATORS)


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
    request = rng.choice(EDIT_FORMS).format(p=path, a=old, b=new)
    if rng.random() < 0.2 and not request.startswith("In"):
        request = led(rng, request[0].lower() + request[1:])
    if rng.random() < 0.15:
        return request.rstrip(".") if request.endswith((".", "?")) else request
    return request + (rng.choice(TRAILS) if request.endswith(".") else "")


def say(rng: random.Random, text: str) -> str:
    """Ask for a text to be written out."""
    marked = quoted(rng, text)
    if marked and rng.random() < 0.3:
        return rng.choice(SAY_QUOTED).format(marked[0])
    form = rng.choice(SAY_ENDS)
    return (form.replace(": {}", ":\n{}") if rng.random() < 0.15 or "\n" in text else form).format(text)


def count(rng: random.Random, low: int, high: int) -> str:
    """Ask to count."""
    return rng.choice(COUNTS).format(low, high)


def talk(rng: random.Random, kind: str) -> str:
    """A greeting, a question about the model, or thanks, in careless or careful spelling."""
    text = rng.choice(TALK[kind])
    text = text if rng.random() < 0.4 else text[0].upper() + text[1:]
    ends: Sequence[str] = (
        ("?", "", "?") if kind == "who" else ("", "!", ".", "?" if "how are" in text else "!")
    )
    return text + rng.choice(ends)


def other(rng: random.Random, topic: str) -> str:
    """Something the model cannot do."""
    return rng.choice(OTHERS).format(topic)
