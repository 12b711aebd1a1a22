"""Token ids to text, thinking and tool calls: a state machine without I/O.

The events join to the same answer for chunks of any size. Text is held back only while it could be the
beginning of a tag (`<tool_call>`, `</think>`, a stop sequence) or space before a tag.
"""

import copy

from ..formats.answer_format import AnswerFormat
from ..formats.detokenizer import Detokenizer
from ..formats.output_events import OutputEvent, TextDelta, ThinkingDelta, ToolCallEnd, ToolCallStart
from ..formats.readers.call_reader import ParseResult
from ..formats.readers.tool_call_body import ToolCallBody
from ..formats.tag_follower import Mode, TagFollower
from .held_thoughts import HeldThoughts
from .untagged_calls import UntaggedCalls

SPACE = " \t\r\n"


class OutputParser:
    """Reads one answer. Once `done`, the rest of the sampled tokens is ignored."""

    def __init__(self, detokenizer: Detokenizer, answer_format: AnswerFormat) -> None:
        self.done = False
        self.stop_sequence: str | None = None  # that ended the answer
        self.has_calls = False
        self.results: list[ParseResult] = []  # of each text between a call's tags
        self._detokenizer = detokenizer
        self._format = answer_format
        self._tags = answer_format.tags
        mode = Mode.THINKING if answer_format.starts_thinking else Mode.TEXT
        self._follower = TagFollower(self._tags, mode, answer_format.begun)
        self._space = ""  # trailing space of the open block, sent only if more of the block follows
        self._body: ToolCallBody | None = None  # of the call that is open
        self._is_wrapped = False  # the text began with the first of the tags around it
        self._start = ""  # its start tag, empty where it began without one
        self._block: type[OutputEvent] | None = None  # kind of the block that is open
        self._events: list[OutputEvent] = []
        # A tag that would say what is so already, if it came next.
        self._repeated = self._tags.thinking[not answer_format.starts_thinking] if self._tags.thinking else ""
        self._num_space = 0  # characters of space that have come before it
        label = answer_format.thinking.label if answer_format.thinking else ""
        self._held = HeldThoughts(self._tags.calls, self._tags.call_end or "", label)
        self._untagged = UntaggedCalls(answer_format.untagged_tools)

    @property
    def in_text(self) -> bool:
        """Whether the next token is text, not part of thoughts or a call."""
        return self._follower.mode is Mode.TEXT

    @property
    def in_thoughts(self) -> bool:
        """Whether the next token is part of thoughts."""
        return self._follower.mode is Mode.THINKING

    def leaves_thoughts(self, token: int) -> bool:
        """Whether `token` would end the thoughts that are open. Does not take the token."""
        trial = copy.copy(self)
        trial._detokenizer, trial._follower = self._detokenizer.copy(), self._follower.copy()
        trial._events, trial.results, trial._held = [], [], self._held.copy()
        trial._untagged = self._untagged.copy()
        trial.feed([token])
        return not trial.in_thoughts

    def feed(self, tokens: list[int]) -> list[OutputEvent]:
        """Take tokens and return the events that have become certain."""
        self._follower.unread += self._detokenizer.add(tokens)
        self._scan()
        return self._take()

    def finish(self, cut_off: bool = False) -> list[OutputEvent]:
        """Return the events that were held back; nothing may be fed afterwards.

        cut_off: the model has not ended the answer itself, so that open thoughts might have gone on.
        """
        if not self.done:
            self._follower.unread += self._detokenizer.flush()
            self._end_answer(cut_off)
        return self._take()

    def _take(self) -> list[OutputEvent]:
        events, self._events = self._events, []
        return events

    def _scan(self) -> None:
        """Emit the unread text up to where an incomplete tag may begin, and handle the tags in it."""
        follower = self._follower
        while not self.done:
            if self._repeated and not self._skip_repeated_tag():
                return
            mode = follower.mode
            text, tag = follower.take(in_value=self._in_value())
            self._emit(text)
            if follower.mode is not mode:
                continue  # the text has ended a call, and part of it is unread again
            if tag is None or self.done:
                return
            follower.cross(tag)
            self._cross(mode, tag)

    def _skip_repeated_tag(self) -> bool:
        """Skip an end of thoughts where an answer begins, in open ones their start, behind a call its end.

        Returns False while more text must tell.
        """
        while tag := self._repeated:
            unread = self._follower.unread
            text = unread[self._num_space :].lstrip(SPACE)
            if len(text) < len(tag) and tag.startswith(text):
                self._num_space = len(unread) - len(text)
                return False
            self._num_space = 0
            is_behind_call = self._block is ToolCallStart
            if not is_behind_call or not text.startswith(tag):
                self._repeated = ""
            if text.startswith(tag):
                self._follower.unread = text.removeprefix(tag)
                if not is_behind_call:
                    self._begin_block()
        return True

    def _begin_block(self) -> None:
        """Begin thoughts, or what comes after them, where their tag has been skipped."""
        self._block = None if self.in_thoughts else ThinkingDelta
        if self.in_thoughts:
            self._held.begin()

    def _in_value(self) -> bool:
        """Whether the value has begun, or begins in the unread text, which then begins with no start tag."""
        if not self._format.is_value or not self.in_text:
            return False
        unread = self._follower.unread
        text = unread.lstrip(SPACE)  # a tag may begin with space of its own
        may_be_tag = any(
            tag.startswith(part) or part.startswith(tag)
            for tag in self._tags.starts
            for part in (text, unread)
        )
        return self._block is TextDelta or (bool(text) and not may_be_tag)

    def _cross(self, mode: Mode, tag: str) -> None:
        """Handle a tag. mode: of the text before the tag."""
        if mode is Mode.TEXT:
            self._emit_in_block(TextDelta, self._untagged.take())
        if mode is Mode.CALL:
            assert self._body is not None, "a call has a body"
            self._advance_body(self._body, self._body.add_end_tag())
        elif mode is Mode.THINKING:
            self._emit_in_block(ThinkingDelta, self._held.take())
            # Text after thoughts begins a new block, even if the thoughts are empty.
            self._space, self._block = "", ThinkingDelta
        elif self._follower.mode is Mode.CALL:
            assert self._format.tool_format is not None, "a call has a format"
            self._body, head = self._format.tool_format.open_body(tag, self._format.tools)
            self._start = (
                self._format.tool_format.start if tag.startswith(self._format.tool_format.start) else ""
            )
            self._advance_body(self._body, head)
        elif self._follower.mode is Mode.THINKING:
            self._space = ""
            self._held.begin()
        elif tag in (self._format.wrap or ()):
            self._cross_wrap(tag)
        elif tag in self._format.stop_sequences:
            self._flush_space()
            self.stop_sequence, self.done = tag, True

    def _cross_wrap(self, tag: str) -> None:
        """Handle a tag that may stand around the text; the last one is held back as the space there is."""
        assert self._format.wrap is not None, "there are such tags"
        is_first = tag == self._format.wrap[0]
        if is_first and self._block is not TextDelta:
            self._is_wrapped = True
        elif self._is_wrapped and not is_first:
            self._space += tag
        else:
            self._emit_in_block(TextDelta, tag)

    def _emit(self, text: str) -> None:
        if self._body is not None:
            self._advance_body(self._body, self._body.add(text))
        elif self.in_thoughts:
            self._emit_in_block(ThinkingDelta, self._held.add(text))
        else:
            self._emit_in_block(TextDelta, self._untagged.add(text))

    def _emit_in_block(self, kind: type[TextDelta] | type[ThinkingDelta], text: str) -> None:
        """Add text to a block. Space at a border between blocks is the template's, and is dropped."""
        if self._block is not kind and (self._block is not None or kind is ThinkingDelta):
            text = text.lstrip(SPACE)
        sent = text if self._format.is_plain else text.rstrip(SPACE)
        if sent:
            self._block = kind
            self._events.append(kind(self._space + sent))
            self._space = ""
        self._space += text[len(sent) :]

    def _emit_calls(self, events: list[OutputEvent]) -> None:
        """Emit events of calls; in an answer of one call, the end of the first call ends the answer."""
        if events:
            self._space, self._block, self.has_calls = "", ToolCallStart, True
        ends = [place for place, event in enumerate(events, 1) if isinstance(event, ToolCallEnd)]
        if ends and self._format.one_call:
            self.done = True
            events = events[: ends[0]]
        self._events += events

    def _advance_body(self, body: ToolCallBody, events: list[OutputEvent]) -> None:
        """Emit events of the open call's body, and end the body when it is over."""
        self._emit_calls(events)
        if self.done:
            self.results.append("ok")
        elif body.is_over:
            self._end_body(body)

    def _end_body(self, body: ToolCallBody) -> None:
        """End a call's body. A part of the body that holds no call becomes text; unread text is read anew."""
        tool_format = self._format.tool_format
        assert tool_format is not None, "a call has a format"
        self._body = None
        result = body.result()
        self._emit_calls(result.events)
        self.results.append(result.result)
        if result.text:
            end = tool_format.end if body.is_over else ""
            self._emit_in_block(TextDelta, self._start + result.text + end)
        rest = result.unread
        if body.is_over:  # unread text before the end tag is dropped, unless it holds another call
            place = rest.find(tool_format.start)
            rest = rest[place:] + tool_format.end if place >= 0 else ""
        self._follower.end_call(rest + body.remainder)
        if body.is_over and result.result != "failed" and tool_format.end.endswith(">"):  # not Markdown's
            self._repeated = tool_format.end

    def _end_answer(self, cut_off: bool) -> None:
        """Emit the unread text and end the open call, at the end of the answer."""
        self._end_text()
        if self.in_thoughts and not self.done:
            text = self._held.take()
            if not cut_off and self._is_call(text):
                self._follower.mode, self._follower.unread = Mode.TEXT, text
                self._space, self._block = "", ThinkingDelta
                self._end_text()
            else:
                self._emit_in_block(ThinkingDelta, text)
        if self.in_text and not self.done:
            self._end_untagged()
            self._flush_space()

    def _end_untagged(self) -> None:
        """Emit the text that is held back, or the calls that it is."""
        calls, text = self._untagged.end()
        if calls and not self.has_calls:
            self._emit_calls(calls)
            self.results.append("repaired")
        else:
            self._emit_in_block(TextDelta, text)

    def _is_call(self, text: str) -> bool:
        """Whether a text at the answer's end is a call, perhaps without its end tag."""
        trial = copy.copy(self)
        trial._follower = TagFollower(self._tags, Mode.TEXT, text)
        trial._events, trial.results, trial.has_calls = [], [], False
        trial._untagged = self._untagged.copy()
        trial._end_text()
        return trial.has_calls and "failed" not in trial.results

    def _end_text(self) -> None:
        """Emit the unread text and end the open call."""
        follower = self._follower
        while not self.done and (follower.unread or self._body is not None):
            self._scan()
            text, follower.unread = follower.unread, ""
            self._emit(text)
            if self._body is not None and not self.done:
                self._emit_calls(self._body.end_answer())
                self._end_body(self._body)

    def _flush_space(self) -> None:
        """Emit the trailing space of the text that ends the answer; other trailing space is dropped."""
        if self._is_wrapped and self._format.wrap is not None:
            self._space = self._space.partition(self._format.wrap[1])[0].rstrip(SPACE)
        if self._space and self._block in (None, TextDelta):
            self._events.append(TextDelta(self._space))
            self._block = TextDelta
        self._space = ""
