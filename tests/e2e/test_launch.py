"""`pensieve claude` with the real client."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit


def test_pensieve_claude_completes_a_task(server: str, claude: str, tmp_path: Path) -> None:
    """With a home that is new, and a key for Anthropic's own API around, which must not be used."""
    flags = ["--bare", "--permission-mode", "manual", "--allowedTools", "Bash", "--output-format", "text"]
    command = [sys.executable, "-m", "pensieve", "claude", "--port", str(urlsplit(server).port)]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TERM": "xterm",
        "PENSIEVE_CLAUDE": claude,
        "ANTHROPIC_API_KEY": "not-for-us",
    }
    done = subprocess.run(
        [*command, "-p", "Run the command `echo plum` and report its output.", *flags],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "plum"), done.stderr
