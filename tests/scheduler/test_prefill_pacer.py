from pensieve.scheduler.prefill_pacer import MIN_TOKENS, PrefillPacer


def play(pacer: PrefillPacer, seconds_a_token: float, steps: int = 80, decode_s: float = 0.0) -> float:
    """Let every step compute all that it may; returns how long the last mixed one took, in seconds."""
    mixed_s = 0.0
    for _ in range(steps):
        num_tokens = pacer.num_tokens
        elapsed_s = decode_s + num_tokens * seconds_a_token
        pacer.record(num_tokens, elapsed_s)
        mixed_s = elapsed_s if num_tokens else mixed_s
    return mixed_s


def test_slices_are_cut_until_a_step_takes_the_target() -> None:
    pacer = PrefillPacer(target_s=0.1, max_tokens=512)
    assert 0.08 < play(pacer, seconds_a_token=0.001) < 0.12


def test_slices_grow_again_when_steps_get_faster_but_not_past_the_limit() -> None:
    pacer = PrefillPacer(target_s=0.1, max_tokens=512)
    play(pacer, seconds_a_token=0.002)
    play(pacer, seconds_a_token=0.00001)
    assert pacer.num_tokens >= 500


def test_one_slow_step_is_taken_for_an_accident_and_two_are_not() -> None:
    pacer = PrefillPacer(target_s=0.1, max_tokens=512)
    play(pacer, seconds_a_token=0.001)
    before = pacer.num_tokens
    pacer.record(before, 0.5)
    assert pacer.num_tokens == before
    pacer.record(before, 0.5)
    assert pacer.num_tokens < before / 2


def test_where_decoding_alone_is_slow_the_target_gives_way() -> None:
    """Though there is always a prompt, so that no step would only decode."""
    pacer = PrefillPacer(target_s=0.1, max_tokens=512)
    assert 0.25 < play(pacer, seconds_a_token=0.0008, decode_s=0.15, steps=200) < 0.35


def test_a_prefill_advances_even_where_every_step_is_too_slow() -> None:
    pacer = PrefillPacer(target_s=0.1, max_tokens=512)
    play(pacer, seconds_a_token=1.0)
    assert pacer.num_tokens == MIN_TOKENS


def test_a_fast_step_with_little_to_do_says_nothing_of_a_full_one() -> None:
    pacer = PrefillPacer(target_s=0.1, max_tokens=512)
    play(pacer, seconds_a_token=0.001)
    before = pacer.num_tokens
    pacer.record(3, 0.001)
    assert pacer.num_tokens == before
