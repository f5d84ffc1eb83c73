"""Work on the odd models is done once for a step with its settings."""

from autocompress.errors import TechniqueError
from autocompress.techniques.factorization.svd import Svd
from autocompress.techniques.training.finetune import Finetune
from autocompress.testing.work import Work, quick, work


def test_work_is_done_once_for_a_step_with_its_settings() -> None:
    assert work(Svd(energy=0.7), "mlp") is work(Svd(energy=0.7), "mlp")
    low, high = work(Svd(energy=0.5), "mlp"), work(Svd(energy=0.7), "mlp")
    assert isinstance(low, Work)
    assert isinstance(high, Work)
    assert low.decision != high.decision
    assert work(Svd(energy=0.7), "two_names") is not high


def test_settings_may_be_such_that_have_no_hash() -> None:
    found = work(Svd(ranks={"layers.1": 3}), "mlp")
    assert isinstance(found, Work)
    assert found.decision["ranks"] == {"layers.1": 3}
    assert isinstance(work(Svd(ranks={"layers.2": 3}), "mlp"), TechniqueError)


def test_a_class_of_the_same_settings_is_another_technique() -> None:
    class Other(Svd):
        """The same by another name."""

    assert work(Other(energy=0.7), "mlp") is not work(Svd(energy=0.7), "mlp")


def test_defaults_are_used_with_little_work() -> None:
    assert quick(Finetune) == Finetune(epochs=3, batch_size=16, learning_rate=5e-3)
    assert quick(Svd) == Svd()
