"""Sessions that outgrow a small machine where all layers keep all tokens; figures never differ."""

import pytest

from pensieve.bench.micro.forgotten_windows import main


def test_six_sessions_on_a_small_machine_compute_their_new_tokens_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["", "--model", "Gemma-4-26B-A4B", "--sessions", "6", "--turns", "3"])
    main()
    *_, whole, forgotten = capsys.readouterr().out.split()
    assert float(whole) > 1.2
    assert float(forgotten) < 1.02
