"How pytest-xdist deals the tests out to its processes."
import pytest

TOGETHER = ("test_classify.py", "test_preparing.py", "test_quickstart.py", "test_training_pretrain.py", "test_wheel.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "One by one, but files whose tests share something slow (a run, a wheel) whole: else every process would make it."
    from xdist.scheduler import LoadScopeScheduling

    class ByWhatIsShared(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return file if file.endswith(TOGETHER) else nodeid

    return ByWhatIsShared(config, log)
