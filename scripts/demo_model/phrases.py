"""The phrases of requests for the three tools, one a line; a phrase written twice is drawn twice as often."""


def phrases(text: str) -> tuple[str, ...]:
    r"""Return the lines of a table, in which \n stands for a line break."""
    return tuple(line.replace(r"\n", "\n") for line in text.strip("\n").split("\n"))


RUN_VERBS = phrases(r"""
run
run
run
execute
use Bash to run
use the Bash tool to run
start
""")

RUN_OBJECTS = phrases(r"""
{}
the command {}
the command {}
the shell command {}
the bash command {}
this command: {}
""")

RUN_ENDS = phrases(r"""
Run this command and {report}: {c}
Run this command and {report}:\n{c}
Run the following command and {report}:\n\n{c}
Run the following shell command, then {report}: {c}
Use the Bash tool to run this command, and {report}:\n{c}
Execute this and {report}: {c}
Run this command and {report}:\n```\n{c}\n```
Run this and {report}:\n```bash\n{c}\n```
""")

BARE_ENDS = phrases(r"""
Run {c}
run {c}
Run: {c}
Run the command {c}
Execute {c}
Please run {c}
Now run {c}
Then run {c}
""")

RUN_QUESTIONS = phrases(r"""
What does {q} print?
What is the output of {q}?
What does the command {q} print?
Tell me what {q} prints.
""")

REPORT_ALL = phrases(r"""
report its output
report its output
report the output
tell me its output
tell me the output
tell me what it prints
tell me what it printed
show me the output
show its output
give me its output
print its output
quote its output
repeat its output
answer with its output
report what it prints
reply with its output
say what it prints
report its output exactly
show me what it prints
output the result
""")

REPORT_FIRST = phrases(r"""
quote the first line of its output
tell me the first line of its output
report the first line of the output
report only the first line of its output
repeat the first line of its output
quote its first line of output
answer with the first line of its output
show me the first line of the output
""")

REPORT_LAST = phrases(r"""
quote the last line of its output
tell me the last line of its output
report the last line of the output
report only the last line of its output
answer with the last line of its output
""")

READ_VERBS = phrases(r"""
read
read
read
open
look at
use the Read tool to read
use Read to read
""")

LINE_WANTS = phrases(r"""
quote its {line}
quote its {line}
quote the {line}
tell me its {line}
tell me the {line}
report its {line}
report the {line}
repeat the {line}
show me the {line}
give me the {line}
answer with its {line}
quote {line} exactly
tell me what its {line} says
print its {line}
reply with the {line}
""")

LINE_QUESTIONS = phrases(r"""
What is the {line} of {p}?
What is the {line} of the file {p}?
Quote the {line} of {p}.
Quote the {line} of the file {p}.
Tell me the {line} of {p}.
What does the {line} of {p} say?
Read the {line} of the file {p} and quote it.
Show me the {line} of {p}.
""")

ALL_WANTS = phrases(r"""
tell me what it says
quote its contents
quote all of it
show me its contents
report its content
tell me its contents
quote its content exactly
repeat its contents
report what it says
show it to me
""")

ALL_QUESTIONS = phrases(r"""
What does {p} say?
What is in the file {p}?
What does the file {p} contain?
Show me the contents of {p}.
Show me the file {p}.
What are the contents of {p}?
""")

EDIT_FORMS = phrases(r"""
In the file {p}, replace {a} with {b}.
In the file {p}, replace {a} with {b}.
In {p}, replace {a} with {b}.
In {p} replace {a} by {b}.
In {p}, change {a} to {b}.
In the file {p} change {a} to {b}.
In the file {p}, replace the text {a} with {b}.
In {p}, replace the text {a} with the text {b}.
Edit {p}: replace {a} with {b}.
Edit {p}: change {a} to {b}.
Edit the file {p}: replace {a} with {b}.
Edit the file {p}: change {a} to {b}.
Edit the file {p} and replace {a} with {b}.
Edit the file {p} and change {a} to {b}.
Edit the file {p} so that {a} becomes {b}.
Open {p} and replace {a} with {b}.
Read {p}, then replace {a} with {b}.
Read the file {p} and replace {a} with {b}.
Read {p} and change {a} to {b} in it.
Replace {a} with {b} in {p}.
Replace {a} with {b} in the file {p}.
Replace {a} by {b} in the file {p}.
Replace the text {a} with {b} in the file {p}.
Replace the word {a} with {b} in {p}.
Replace the line {a} with {b} in {p}.
Replace the string {a} with the string {b} in the file {p}.
Change {a} to {b} in {p}.
Change {a} to {b} in the file {p}.
Change {a} into {b} in the file {p}.
Use the Edit tool to replace {a} with {b} in {p}.
Use the Edit tool to change {a} to {b} in the file {p}.
Edit {p}. Replace {a} with {b}.
Edit the file {p}. Change {a} to {b}.
""")
