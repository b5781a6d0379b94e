import pytest

from robustctl.errors import InterruptedRun, RequestError, RobustctlError, RunError, of_users_code


@pytest.mark.parametrize(("error", "code"), [(RequestError, 2), (RunError, 1), (InterruptedRun, 130)])
def test_each_kind_of_error_has_its_exit_code(error: type[RobustctlError], code: int) -> None:
    assert issubclass(error, RobustctlError)
    assert error.exit_code == code


def test_the_message_is_the_whole_text() -> None:
    assert str(RequestError("eps '0' must be above 0")) == "eps '0' must be above 0"


class Silent(BaseException):
    """An exception that cannot even say why."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (SystemExit(0), "net.py fails with SystemExit: 0"),
        (ValueError("x"), "net.py fails with ValueError: x"),
        (Silent(), "net.py fails with Silent: it fails to say why"),
    ],
)
def test_whatever_the_user_s_code_raises_is_a_wrong_request(raised: BaseException, told: str) -> None:
    """``sys.exit()`` in it would end the command with exit code 0, as if all had been done."""
    with pytest.raises(RequestError) as found, of_users_code("net.py fails with "):
        raise raised
    assert str(found.value) == told


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), MemoryError(), RunError("own"), NotImplementedError("kept")])
def test_ctrl_c_and_a_lack_of_memory_in_it_stay_what_they_are(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as found, of_users_code("x ", RequestError, NotImplementedError):
        raise raised
    assert found.value is raised
