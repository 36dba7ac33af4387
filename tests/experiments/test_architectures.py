"""Networks have the published counts, and the claims about them say so only of what was counted."""

import inspect

import pytest

from cnnjax import models
from experiments import architectures
from experiments.bench.published_networks import read

PUBLISHED = read()


@pytest.mark.published
@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published(name):
    network = PUBLISHED[name]
    counted = architectures.count(network)
    if network.params:
        assert counted["params"] == network.params
    if network.gmacs:
        assert counted["macs"] / 1e9 == pytest.approx(network.gmacs, rel=network.tolerance)


def test_every_published_network_is_there_and_every_network_of_the_lectures_is_published():
    assert set(PUBLISHED) <= set(models.list_models())
    assert {name for names in architectures.GROUPS.values() for name in names} <= set(PUBLISHED)


def test_the_classifier_s_dropout_and_layers_are_the_references():
    pytest.importorskip("torch")
    from experiments.bench import torchvision_without_ops  # noqa: F401, I001
    import torchvision

    default = inspect.signature(torchvision.models.GoogLeNet.__init__).parameters["dropout"].default
    assert default == architectures.TORCHVISION_DROPOUT
    assert architectures.VGG_LAYERS == 102_764_544 + 16_781_312  # as Keras and torchvision have them


@pytest.mark.published
def test_claims_that_are_computed_hold_and_counts_wait_for_a_run():
    claims = architectures.claims(None)
    waiting = [claim for claim in claims if claim.verdict.startswith("not run")]
    assert len(waiting) == len(architectures.GROUPS)
    assert all(claim.ok for claim in claims if claim not in waiting)
    assert {claim.id for claim in claims} == {"H1", "H3", "H4"}


def counts(counted):
    """The claims about counts, which are read from a summary."""
    return [architectures._structure(title, names, counted) for title, names in architectures.GROUPS.items()]


def test_a_count_that_is_not_the_published_one_fails():
    counted = {
        name: {"params": network.params or 1, "macs": (network.gmacs or 1) * 1e9} for name, network in PUBLISHED.items()
    }
    assert all(claim.ok for claim in counts(counted))
    counted["resnet50"]["params"] += 1
    counted["vgg19"]["macs"] *= 1.011
    failed = [claim.statement for claim in counts(counted) if not claim.ok]
    assert [statement.split(":")[0] for statement in failed] == ["VGG-16 and VGG-19", "ResNet-50 and ResNet-152"]
