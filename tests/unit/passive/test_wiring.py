"""What holds for as long as the passive service serves."""

from threadpoolctl import threadpool_info, threadpool_limits

from services.passive.main import wire
from services.passive.settings import PassiveSettings


def blas_threads() -> dict[str, int]:
    return {each["filepath"]: each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


async def test_no_linear_algebra_takes_the_core_of_another_detector():
    async with wire(PassiveSettings()):
        pass  # so that all that the detectors bring is loaded
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        assert set(before.values()) == {2}
        async with wire(PassiveSettings()):
            assert blas_threads() == dict.fromkeys(before, 1)
        assert blas_threads() == before
