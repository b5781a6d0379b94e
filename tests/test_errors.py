import pytest

from robustctl.errors import InterruptedRun, RequestError, RobustctlError, RunError


@pytest.mark.parametrize(("error", "code"), [(RequestError, 2), (RunError, 1), (InterruptedRun, 130)])
def test_each_kind_of_error_has_its_exit_code(error: type[RobustctlError], code: int) -> None:
    assert issubclass(error, RobustctlError)
    assert error.exit_code == code


def test_the_message_is_the_whole_text() -> None:
    assert str(RequestError("eps '0' must be above 0")) == "eps '0' must be above 0"
