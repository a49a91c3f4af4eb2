import json
import os

import pytest

from ponder.errors import GraderError
from ponder.tasks._limited import Limited, LimitExceededError


@pytest.fixture
def limited():
    made = []

    def make(function, **limits):
        made.append(Limited(function, **limits))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_function_is_called_in_another_process_that_is_kept(limited):
    pid = limited("os:getpid")
    assert pid() == pid() != os.getpid()


def test_arguments_and_results_pass_and_what_is_printed_goes_nowhere(limited, capfd):
    assert limited("builtins:print")("x") is None
    assert limited("json:dumps")({"ü": [1.5, None]}) == json.dumps({"ü": [1.5, None]})
    assert capfd.readouterr().out == ""


def test_what_does_not_end_is_ended_and_the_next_call_works(limited):
    power = limited("builtins:pow", cpu_s=0.2)
    with pytest.raises(LimitExceededError, match=r"more than 0\.2 s"):
        power(7, 10**9)
    assert power(2, 3) == 8


def test_too_much_memory_is_refused_and_the_next_call_works(limited):
    zeros = limited("builtins:bytes", memory_bytes=1 << 30)
    with pytest.raises(LimitExceededError, match="1024 MiB"):
        zeros(2 << 30)
    with pytest.raises(GraderError, match="TypeError"):  # bytes are no JSON
        zeros(3)


def test_an_exception_is_a_graders_error_and_so_is_leaving(limited):
    number = limited("builtins:int")
    with pytest.raises(GraderError, match="ValueError: invalid literal"):
        number("x")
    with pytest.raises(GraderError, match="SystemExit"):
        limited("sys:exit")(3)
    assert number("3") == 3


def test_what_cannot_be_loaded_is_told(limited):
    with pytest.raises(GraderError, match=r"nowhere:f cannot be loaded: ModuleNotFoundError"):
        limited("nowhere:f")()
