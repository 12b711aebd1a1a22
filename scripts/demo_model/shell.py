"""Commands with the output they really have, as far as a few lines of Python can tell.

Output that repeats words of its own command is what a model trained on random output alone gets wrong: it
copies on from the command instead of the output.
"""

from pensieve.scripts.demo_model.files import Files
from pensieve.scripts.demo_model.words import Words

NO_OUTPUT = "(Bash completed with no output)"
Demonstration = tuple[str, str]


def demonstrate(words: Words, files: Files) -> Demonstration:
    """Draw a command and its output."""
    makers = (echo, echo, echo, chain, printed, numbers, arithmetic, names, file_part, file_part, written)
    make = words.rng.choice(makers)
    return make(words, files)


def echo(words: Words, files: Files) -> Demonstration:
    """Print words, quoted or not, now and then changed by a filter."""
    text = words.pick(
        (4, lambda: words.phrase(1, 6)), (2, words.plain), (1, words.identifier), (1, words.path)
    )
    quote = words.rng.choice(("", "", '"', "'"))
    command = f"echo {quote}{text}{quote}"
    if words.rng.random() < 0.12:
        return f"{command} | tr a-z A-Z", text.upper()
    if words.rng.random() < 0.08:
        return f"{command} | cat", text
    return command, text


def chain(words: Words, files: Files) -> Demonstration:
    """Print two or three lines."""
    texts = [words.phrase(1, 3) for _ in range(words.rng.choice((2, 2, 3)))]
    return words.rng.choice((" && ", "; ")).join(f"echo {text}" for text in texts), "\n".join(texts)


def printed(words: Words, files: Files) -> Demonstration:
    """Print lines with printf."""
    texts = [words.word() for _ in range(words.rng.randint(1, 4))]
    if words.rng.random() < 0.5:
        return f"printf '%s\\n' {' '.join(texts)}", "\n".join(texts)
    return "printf '" + "".join(f"{text}\\n" for text in texts) + "'", "\n".join(texts)


def numbers(words: Words, files: Files) -> Demonstration:
    """Print a sequence of numbers."""
    low = words.rng.randint(0, 120)
    high = low + words.rng.randint(0, 14)
    return f"seq {low} {high}", "\n".join(str(number) for number in range(low, high + 1))


def arithmetic(words: Words, files: Files) -> Demonstration:
    """Print a sum, difference or product."""
    left, right = words.rng.randint(1, 999), words.rng.randint(1, 999)
    sign, value = words.rng.choice((("+", left + right), ("-", left - right), ("*", left * right)))
    forms = (
        f"expr {left} '{sign}' {right}",
        f"echo $(({left} {sign} {right}))",
        f"python3 -c 'print({left} {sign} {right})'",
    )
    return words.rng.choice(forms), str(value)


def names(words: Words, files: Files) -> Demonstration:
    """Print file names and parts of paths."""
    rng, path = words.rng, files.path()
    folder, _, name = path.rpartition("/")
    listed = sorted({words.file_name() for _ in range(rng.randint(1, 7))} | {name})
    options: tuple[Demonstration, ...] = (
        ("ls", "\n".join(listed)),
        (f"ls {folder or '.'}", "\n".join(listed)),
        ("ls -1", "\n".join(listed)),
        (f"ls {path}", path),
        (f"basename {path}", name),
        (f"dirname {path}", folder or "."),
        (f"realpath {path}", path),
        ("pwd", words.absolute_folder()),
    )
    return rng.choice(options)


def file_part(words: Words, files: Files) -> Demonstration:
    """Print a file of the conversation, or a part of it."""
    rng, path = words.rng, files.path()
    lines = files.content(path)[:20]
    count = rng.randint(1, len(lines))
    options: tuple[Demonstration, ...] = (
        (f"cat {path}", "\n".join(lines)),
        (f"cat {path}", "\n".join(lines)),
        (f"head -n {count} {path}", "\n".join(lines[:count])),
        (f"tail -n 1 {path}", lines[-1]),
        (f"sed -n '{count}p' {path}", lines[count - 1]),
        (f"wc -l {path}", f"{len(lines)} {path}"),
        (f"grep -n '{lines[0]}' {path}", f"1:{lines[0]}"),
        (f"grep -c '{words.plain()}' {path}", str(rng.randint(0, 3))),
    )
    command, output = rng.choice(options)
    return command, output.strip("\n").rstrip() or NO_OUTPUT


def written(words: Words, files: Files) -> Demonstration:
    """Write a file, and perhaps show it."""
    rng, text, path = words.rng, words.phrase(1, 4), files.path()
    options: tuple[Demonstration, ...] = (
        (f"echo {text} > {path}", NO_OUTPUT),
        (f"echo {text} > {path} && cat {path}", text),
        (f"touch {path}", NO_OUTPUT),
        (f"mkdir -p {words.absolute_folder()}", NO_OUTPUT),
        (f"echo '{text}' | tee {path}", text),
        (f"cp {path} {words.path()}", NO_OUTPUT),
    )
    return rng.choice(options)
