"""Shapes, gradients, and the class loss of what is no class."""

import pytest
import torch

from training.localisation.classes import CLASSES, OTHER
from training.localisation.losses import Truth, loss_of
from training.localisation.network import Localiser, Output, Residuals


@pytest.fixture(scope="module")
def network() -> Localiser:
    torch.manual_seed(3)
    return Localiser(learned=2, width=32)


def test_shapes_follow_the_picture(network):
    with torch.inference_mode():
        output = network.eval()(torch.rand(2, 3, 64, 96) * 255)
    assert output.mask.shape == output.edge.shape == output.reliability.shape == (2, 16, 24)
    assert output.classes.shape == (2, len(CLASSES))


def test_residuals_of_an_even_picture_vanish():
    torch.manual_seed(0)
    maps = Residuals(4)(torch.full((1, 3, 32, 32), 140.0))
    # Constrained filters and those of the rich model sum to nothing, but for the border.
    assert maps[..., 4:-4, 4:-4].abs().max() < 1e-3
    maps = Residuals(4)(torch.rand(1, 3, 32, 32) * 255)
    assert maps.abs().mean() > 0.1


def test_everything_learns(network):
    network.train()
    truth = Truth(torch.zeros(2, 64, 64), torch.tensor([4, OTHER]))
    truth.masks[1, 16:48, 16:48] = 1.0
    loss_of(network(torch.rand(2, 3, 64, 64) * 255), truth).total.backward()
    idle = [name for name, value in network.named_parameters() if value.grad is None]
    assert idle == []


def test_the_traces_alone_teach_only_what_reads_them(network):
    network.zero_grad()
    truth = Truth(torch.zeros(2, 64, 64), torch.tensor([4, 0]))
    truth.masks[1, 16:48, 16:48] = 1.0
    output = network.train().read_traces(torch.rand(2, 3, 64, 64) * 255)
    assert torch.equal(output.mask, output.by_traces)
    loss_of(output, truth).total.backward()
    taught = {name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None}
    assert taught == {"traces"}


def test_a_new_network_says_what_the_traces_say():
    torch.manual_seed(1)
    network = Localiser(learned=2, width=32, backbone=16).eval()
    images = torch.rand(1, 3, 64, 64) * 255
    with torch.inference_mode():
        whole, alone = network(images), network.read_traces(images)
    assert torch.equal(whole.by_traces, alone.mask)
    assert (whole.mask - alone.mask).abs().max() < 1.0
    assert whole.classes == pytest.approx(alone.classes, abs=0.5)


def _output(mask: torch.Tensor, classes: torch.Tensor) -> Output:
    return Output(mask, torch.zeros_like(mask), torch.zeros_like(mask), classes, mask)


def test_a_right_mask_costs_less_than_a_wrong_one():
    masks = torch.zeros(1, 32, 32)
    masks[0, 8:16, 8:16] = 1.0
    right = torch.full((1, 8, 8), -6.0)
    right[0, 2:4, 2:4] = 6.0
    truth = Truth(masks, torch.tensor([0]))
    classes = torch.zeros(1, 5)
    assert loss_of(_output(right, classes), truth).total < loss_of(_output(-right, classes), truth).total
    assert loss_of(_output(right, classes), truth).dice < 0.05
    assert loss_of(_output(-right, classes), truth).dice > 0.9


def test_an_edit_without_a_class_may_be_anything_but_pristine():
    masks = torch.zeros(1, 32, 32)
    truth = Truth(masks, torch.tensor([OTHER]))

    def cost(name: str) -> float:
        classes = torch.full((1, 5), -4.0)
        classes[0, CLASSES.index(name)] = 4.0
        return float(loss_of(_output(torch.zeros(1, 8, 8), classes), truth).classes)

    assert cost("splicing") == pytest.approx(cost("face"))
    assert cost("splicing") < 0.01
    assert cost("pristine") > 1.0
