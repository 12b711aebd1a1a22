"""Where the server listens and which key its clients send, unless a flag says otherwise.

Known to the API, which listens there, and to the bench, which is a client like any other.
"""

DEFAULT_PORT = 7777
DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"

# Any key is accepted on loopback, but Claude Code wants one.
LOCAL_KEY = "pensieve-local-key"
