"""gpt-oss's calls, as `formats/harmony.py` rewrites them: `read<|message|>{…}`. They are not constrained."""

from functools import partial

from .. import harmony
from ..readers.header_calls import HeaderCalls
from .call_syntax import CallSyntax

HARMONY = CallSyntax("harmony", partial(HeaderCalls, harmony.HEAD))
