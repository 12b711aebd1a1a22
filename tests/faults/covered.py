"""Numbers of the list that tests elsewhere hold up already, with those tests."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Covered:
    """A number, or a part of one, whose tests stand elsewhere.

    tests: `file` or `file::test`, from tests/; each is run whole, with all of its cases.
    """

    number: int
    tried: str
    asked: str
    tests: tuple[str, ...]


COVERED = (
    Covered(
        2,
        "every field of a request with odd values",
        "read or refused as bad; never a fault of the server",
        ("api/test_odd_bodies.py",),
    ),
    Covered(
        4,
        "bodies of very many values, chunks of a byte",
        "refused unread",
        ("api/test_body.py", "api/command/test_bounded_protocol.py::test_chunks_of_a_byte_are_not_read"),
    ),
    Covered(
        9,
        "what is no HTTP, and bodies of two lengths",
        "an answer in JSON, and nothing behind it is read",
        ("api/command/test_bounded_protocol.py",),
    ),
    Covered(
        10,
        "any tokens in any pieces as a stream",
        "the text of the whole answer; replacement characters for bytes alone that are no text",
        ("api/output/test_equivalence.py",),
    ),
    Covered(
        13,
        "a client leaves without having asked for a stream",
        "its sequence ends within a step",
        ("api/test_messages.py", "e2e/test_server.py::test_disconnects_leave_nothing_behind"),
    ),
    Covered(
        14,
        "a client that does not read on",
        "cut off",
        ("api/command/test_bounded_protocol.py::test_who_does_not_read_on_is_cut_off",),
    ),
    Covered(
        16,
        "connections with half a request",
        "closed",
        ("api/command/test_bounded_protocol.py::test_half_a_request_is_not_waited_for",),
    ),
    Covered(
        19,
        "requests beyond the queue's room",
        "refused by their heads, each told when to come back",
        ("api/test_queue_gate.py",),
    ),
    Covered(
        20,
        "requests that have waited too long",
        "told so; those that run go on",
        ("scheduler/test_refused_waits.py",),
    ),
    Covered(
        21,
        "sessions that always want more beside others; pings in the queue and in prefill",
        "each has its share of the device, none waits for ever; pings at their interval",
        (
            "scheduler/test_fair_shares.py",
            "api/output/test_stream.py::test_pings_come_at_the_interval_while_nothing_else_does",
            "api/output/test_stream.py::test_a_ping_before_the_first_token_says_how_far_the_request_is",
        ),
    ),
    Covered(
        22,
        "more prompts than memory and disk have room for",
        "every block and byte accounted for, within the limits",
        ("cache/test_radix.py", "cache/test_blocks.py", "cache/disk/test_index.py"),
    ),
    Covered(
        23,
        "answers that may become longer than memory, of many sequences",
        "those that have to make room go on with their own tokens",
        (
            "scheduler/test_answer_lengths.py",
            "scheduler/test_planner.py::test_sequences_that_outgrow_memory_are_preempted_and_lose_nothing",
            "engine/test_exactness.py::test_tokens_stay_exact_when_memory_is_short",
        ),
    ),
    Covered(
        24,
        "a queue and a memory that were full",
        "the next request is admitted as soon as there is room",
        (
            "scheduler/test_kv_cache_manager.py",
            "scheduler/test_admission.py",
            "scheduler/test_loop.py::test_a_full_queue_refuses_and_says_when_to_come_back",
        ),
    ),
    Covered(
        25,
        "steps that fail beside other sequences",
        "the culprit alone ends",
        ("scheduler/test_recovery.py", "engine/test_runner.py"),
    ),
    Covered(
        27,
        "MLX's random state poisoned by a compiled function that raises",
        "draws as before: each has a key of its own",
        (
            "engine/test_sampler.py::test_a_poisoned_random_state_changes_no_draw",
            "engine/test_exactness.py::test_seeded_samples_do_not_depend_on_the_batch",
        ),
    ),
    Covered(
        30,
        "ids of templates, tokenizers and fields beyond the embeddings",
        "refused",
        (
            "api/prompt/test_prompt.py::test_a_token_without_an_embedding_is_refused",
            "api/test_errors.py::test_a_bad_field_is_named",
        ),
    ),
)
