from robustctl.report.q_table import table


def test_table_holds_every_estimate_its_diagnostics_and_the_flags(intermediate_result) -> None:
    text = table(intermediate_result)
    lines = text.splitlines()
    assert "linf:0.1" in lines[0]
    assert "n=2" in lines[0]
    for name in ("Z_MC, q=1 ", "Z_PS, q=100 ", "worst, linf:0.1 ", "ProbAcc(0.1) ", "random "):
        assert [line for line in lines if line.startswith(name)], name
    path = next(line for line in lines if line.startswith("Z_PS, q=100"))
    assert "0.65" in path
    assert "100 gradients in samples" in text
    assert lines[-1] == "flag: made: for this test"
