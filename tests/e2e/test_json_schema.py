"""`claude --json-schema` with the real client: the answer is what the schema says."""

import json
import subprocess

from pensieve.bench.claude import Session

SCHEMA = {
    "type": "object",
    "properties": {
        "fruit": {"enum": ["plum", "pear"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["fruit", "count"],
    "additionalProperties": False,
}

# The client asks for its tool in words, which the demo model does not understand; here it asks in the API's.
FORCED = {"tool_choice": {"type": "tool", "name": "StructuredOutput"}}


def test_claude_gets_an_answer_that_conforms_to_its_schema(server: str, claude: str) -> None:
    with Session(server, claude) as session:
        done = subprocess.run(
            [
                claude,
                "-p",
                "Report the fruit.",
                "--bare",
                "--output-format",
                "json",
                "--json-schema",
                json.dumps(SCHEMA),
            ],
            cwd=session.project,
            env=session.environment() | {"CLAUDE_CODE_EXTRA_BODY": json.dumps(FORCED)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)["structured_output"]
    assert answer["fruit"] in ("plum", "pear")
    assert answer["count"] in range(1, 10)
