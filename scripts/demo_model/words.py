"""Random raw material for the synthetic tasks: words, names, paths, lines, file contents, shell commands.

Everything is drawn from a `random.Random`, so that a seed fixes a conversation.
"""

import random
import string
from collections import abc
from collections.abc import Callable


def vocabulary(text: str) -> list[str]:
    """Return the words of a table."""
    return text.split()


COMMON = vocabulary("""
alpha beta gamma delta apple banana cherry lemon orange river mountain cloud silver copper iron stone
paper window garden bridge castle engine server client socket thread buffer cache token model prompt
kernel memory report notes data main test config build index value count total error warning status color
size width height name title hello world green red blue yellow black white small large quick brown fox
lazy dog north south east west spring summer autumn winter monday friday january june coffee tea bread
butter sugar salt pepper one two three four five first second third last next old new left right up down
open closed true false none null yes no on off fast slow user admin guest host port path file folder line
word letter number list table row column key item order price the a of to and in is with for from by
""")
FOLDERS = vocabulary("""
home tmp var usr opt srv etc root workspace data projects src lib app repo docs tests build users code
""")
SUFFIXES = vocabulary("""
txt md py json cfg ini log csv toml yaml html js ts c h rs go sh conf rst xml sql
""")
FLAGS = vocabulary("""
-l -a -la -n -r -v -c -h -x -s -1 -rf -lh --all --help --version --verbose --no-color --oneline
""")
TOOLS = vocabulary("""
ls cat head tail wc sort uniq grep find git python3 node npm make date whoami pwd uname hostname id env
stat file du df which basename dirname tr cut sed awk tee touch mkdir cp mv rm ln diff cmp cksum md5sum
sha256sum nl tac rev fold seq expr factor true false printf echo test curl cargo go pytest ruff mypy
""")
SYLLABLES = vocabulary("""
ka lo mi ra ten vor sil nu po qua zel dri fen gor hax ilo jun kro lum mer nix oph pra rus sto
""")

Choice = tuple[float, Callable[[], str]]


class Words:
    """A source of random strings; `lines` are lines of real text to draw from."""

    def __init__(self, rng: random.Random, lines: abc.Sequence[str]) -> None:
        self.rng = rng
        self.lines = lines

    def pick(self, *choices: Choice) -> str:
        """Call one of the weighted makers."""
        weights = [weight for weight, _ in choices]
        return self.rng.choices([make for _, make in choices], weights)[0]()

    def mixed(self, low: int = 3, high: int = 10) -> str:
        """Draw letters and digits without sense, as in temporary names and hashes."""
        alphabet = self.rng.choice(
            (
                string.ascii_lowercase,
                string.ascii_lowercase + string.digits,
                "0123456789abcdef",
                string.ascii_letters,
            )
        )
        return "".join(self.rng.choices(alphabet, k=self.rng.randint(low, high)))

    def coined(self) -> str:
        """Draw a pronounceable word that no dictionary holds."""
        word = "".join(self.rng.choices(SYLLABLES, k=self.rng.randint(2, 4)))
        return word.capitalize() if self.rng.random() < 0.2 else word

    def text_word(self) -> str:
        """Draw a word of the real text."""
        words = self.rng.choice(self.lines).split()
        return self.rng.choice(words) if words else "word"

    def plain(self) -> str:
        """Draw a common word."""
        return self.rng.choice(COMMON)

    def number(self) -> str:
        """Draw a number of one to five digits, short ones more often."""
        return str(self.rng.randint(0, 10 ** self.rng.choice((1, 1, 2, 2, 3, 4, 5))))

    def word(self) -> str:
        """Draw a word of any kind."""
        return self.pick(
            (8, self.plain), (4, self.text_word), (4, self.coined), (3, self.mixed), (1.5, self.number)
        )

    def identifier(self) -> str:
        """Draw a name as programs have it."""
        parts = [
            self.pick((5, self.plain), (2, self.coined), (1, self.mixed)).lower()
            for _ in range(self.rng.randint(1, 3))
        ]
        if self.rng.random() < 0.15:
            parts.append(self.number())
        return self.rng.choice(("_", "_", "-", ".", "")).join(parts)

    def phrase(self, low: int = 1, high: int = 6) -> str:
        """Draw some words, now and then with a comma."""
        words = [self.word() for _ in range(self.rng.randint(low, high))]
        if len(words) > 2 and self.rng.random() < 0.15:
            words[0] += ","
        return " ".join(words)

    def file_name(self) -> str:
        """Draw a file name with a suffix, mostly."""
        name = self.identifier()
        return name if self.rng.random() < 0.08 else f"{name}.{self.rng.choice(SUFFIXES)}"

    def folder(self) -> str:
        """Draw one folder's name."""
        rng = self.rng
        return self.pick(
            (6, lambda: rng.choice(FOLDERS)),
            (3, self.identifier),
            (1.5, lambda: "tmp" + self.mixed(6, 10)),
            (1, lambda: f"{self.plain()}-{self.number()}"),
            (0.7, lambda: f"test_{self.identifier()}0"),
            (0.5, lambda: "tmp." + self.mixed(8, 10)),
        )

    def absolute_folder(self) -> str:
        """Draw an absolute folder, one to six levels deep."""
        depth = self.rng.choice((1, 2, 2, 3, 3, 4, 5, 6))
        return "/" + "/".join([self.rng.choice(FOLDERS), *(self.folder() for _ in range(depth - 1))])

    def path(self) -> str:
        """Draw a file's path: absolute three times of four."""
        rng = self.rng
        if rng.random() < 0.72:
            return f"{self.absolute_folder()}/{self.file_name()}"
        folders = [self.folder() for _ in range(rng.choice((0, 0, 1, 1, 2)))]
        return "/".join([*(["."] if rng.random() < 0.1 else []), *folders, self.file_name()])

    def real_line(self) -> str:
        """Draw a line of real text, shortened to at most 140 characters."""
        line = self.rng.choice(self.lines).rstrip()
        return line[:140].rstrip() or self.phrase()

    def assignment(self) -> str:
        """Draw a line as in settings files and sources."""
        rng, name = self.rng, self.identifier()
        value = self.pick(
            (3, self.number), (3, self.word), (2, lambda: f'"{self.phrase(1, 3)}"'), (1, self.path)
        )
        return rng.choice((f"{name} = {value}", f"{name}={value}", f"{name}: {value}", f"  {name}: {value},"))

    def record(self) -> str:
        """Draw a line of columns."""
        fields = [self.word() for _ in range(self.rng.randint(2, 5))]
        return self.rng.choice((",", ", ", "\t", " ", ";", " | ", "  ", ":")).join(fields)

    def line(self) -> str:
        """Draw a line of a file or of an output."""
        return self.pick(
            (5, lambda: self.phrase(1, 8)),
            (5, self.real_line),
            (3, self.assignment),
            (2, self.record),
            (2, self.path),
            (1.5, self.identifier),
            (1, self.number),
            (0.7, lambda: self.noise(3, 20)),
        )

    def noise(self, low: int, high: int) -> str:
        """Draw characters without sense: quotes, escapes, other scripts."""
        alphabet = string.ascii_letters + string.digits + string.punctuation * 2 + "   éüñß→—“”✓日本"
        text = "".join(self.rng.choices(alphabet, k=self.rng.randint(low, high)))
        return " ".join(text.split()) or "x"

    def similar_lines(self, count: int) -> list[str]:
        """Draw lines that differ in little: the hard case for copying."""
        rng, start = self.rng, self.rng.randint(0, 30)
        stem, tail = (
            self.rng.choice((self.phrase(1, 3), self.identifier())),
            rng.choice(("", "", " " + self.plain())),
        )
        makers: tuple[Callable[[int], str], ...] = (
            lambda i: f"{stem} {start + i}{tail}",
            lambda i: f"{start + i}",
            lambda i: f"{stem} {self.plain()}{tail}",
            lambda i: f"{stem}_{i}.{rng.choice(SUFFIXES[:3])}",
            lambda i: f"{stem}{tail}" if i % 2 else self.word(),
        )
        make = rng.choice(makers)
        return [make(i) for i in range(count)]

    def listing(self, count: int) -> list[str]:
        """Draw lines as common commands print them: much of each line is that of its neighbours."""
        rng, suffix, folder, day = self.rng, self.rng.choice(SUFFIXES), self.folder(), self.rng.randint(1, 28)

        def clock() -> str:
            return f"0{rng.randint(0, 9)}:{rng.randint(10, 59)}"

        makers: tuple[Callable[[], str], ...] = (
            lambda: f"{self.identifier()}.{suffix}",
            lambda: f"{self.identifier()}.{suffix}",
            self.file_name,
            lambda: f"{folder}/{self.file_name()}",
            lambda: f"./{folder}/{self.identifier()}.{suffix}",
            lambda: (
                f"-rw-r--r-- 1 root root {rng.randint(0, 99999):5} Nov {day} {clock()} {self.file_name()}"
            ),
            lambda: f"{folder}/{self.file_name()}:{rng.randint(1, 400)}:{self.real_line()}",
            lambda: f"{rng.randint(1, 999):4} {folder}/{self.identifier()}.{suffix}",
            lambda: f"{rng.getrandbits(28):07x} {self.phrase(2, 6)}",
            lambda: f"{folder}: {self.word()}",
            lambda: f"{self.identifier()}: ok",
            lambda: str(rng.randint(0, 300)),
        )
        make = rng.choice(makers)
        lines = [make() for _ in range(count)]
        return sorted(lines) if rng.random() < 0.4 else lines

    def block(self, count: int) -> list[str]:
        """Draw lines that could stand together in one file or output."""
        rng = self.rng
        style = rng.random()
        if style < 0.12:
            return self.similar_lines(count)
        if style < 0.42:
            return self.listing(count)
        if style < 0.55:
            start = rng.randrange(len(self.lines))
            found = [line[:140].rstrip() for line in self.lines[start : start + count]]
            return found + [self.line() for _ in range(count - len(found))]
        if style < 0.7:
            make = rng.choice((self.assignment, self.record, self.identifier, self.file_name, self.path))
            return [make() for _ in range(count)]
        return [self.line() for _ in range(count)]

    def argument(self) -> str:
        """Draw one argument of a command."""
        rng = self.rng
        return self.pick(
            (4, self.word),
            (3, self.path),
            (2, self.file_name),
            (2, lambda: f"'{self.phrase(1, 4)}'"),
            (2, lambda: f'"{self.phrase(1, 4)}"'),
            (2, self.number),
            (1, lambda: f"--{self.identifier()}={self.word()}"),
            (
                1,
                lambda: rng.choice(
                    ("*.py", "$HOME", "${PATH}", ".", "..", "*", "~", "a b", "$(pwd)", "%s\\n", "-")
                ),
            ),
            (0.7, lambda: f'"{self.noise(3, 12)}"'.replace("`", "")),
        )

    def simple_command(self) -> str:
        """Draw a command with flags and arguments."""
        rng = self.rng
        special: tuple[Callable[[], str], ...] = (
            lambda: f"echo {self.phrase(1, 6)}",
            lambda: f'echo "{self.phrase(1, 6)}"',
            lambda: f"printf '{self.word()}\\n{self.word()}\\n'",
            lambda: f"printf '%s\\n' {self.phrase(1, 4)}",
            lambda: f"python3 -c 'print({self.number()} {rng.choice('+-*/%')} {self.number()})'",
            lambda: f"python3 -c \"print('{self.phrase(1, 3)}')\"",
            lambda: f"expr {self.number()} {rng.choice('+-')} {self.number()}",
            lambda: f"seq {self.number()} {self.number()}",
            lambda: f"cat {self.path()}",
            lambda: f"ls {self.absolute_folder()}",
            lambda: f"grep -{rng.choice('nicrl')} '{self.phrase(1, 2)}' {self.path()}",
            lambda: f"head -n {rng.randint(1, 20)} {self.path()}",
            lambda: f"sed -n '{rng.randint(1, 9)}p' {self.path()}",
            lambda: f"awk '{{print ${rng.randint(1, 9)}}}' {self.path()}",
            lambda: f"find . -name '*.{rng.choice(SUFFIXES)}'",
            lambda: f"git {rng.choice(('status', 'log --oneline', 'diff', 'branch -a', 'show HEAD'))}",
            lambda: f"date +{rng.choice(('%Y', '%F', '%s', '%H:%M'))}",
        )
        if rng.random() < 0.6:
            return rng.choice(special)()
        parts = [rng.choice(TOOLS), *rng.sample(FLAGS, rng.choice((0, 0, 1, 1, 2)))]
        return " ".join(parts + [self.argument() for _ in range(rng.choice((0, 1, 1, 2, 2, 3)))])

    def command(self) -> str:
        """Draw a shell command, sometimes a chain of several."""
        rng, text = self.rng, self.simple_command()
        while rng.random() < 0.22 and len(text) < 120:
            text += rng.choice((" | ", " && ", "; ", " || ", " > ")) + self.simple_command()
        return text + (rng.choice((" 2>&1", " 2>/dev/null", " >&2", " &")) if rng.random() < 0.06 else "")
