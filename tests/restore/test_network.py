"""The networks are what the paper and the design say, to the parameter."""

import pytest
import torch
from torch import nn

from carfilter.restore.network import (
    Car,
    CarConfig,
    Fast,
    Network,
    build_network,
    config_of,
    count_parameters,
    mac_per_pixel,
)

BOTH = ("car", "fast")


def noise(height: int = 96, width: int = 96) -> torch.Tensor:
    return torch.rand(1, 1, height, width) * 2 - 1


def awake(name: str, **config: int) -> Network:
    """A network whose output depends on all of its layers, as after training."""
    network = build_network(name, config).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.05)
    return network


def test_car_has_the_papers_layers_and_parameters() -> None:
    car = Car()
    layers = [m for m in car.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 34
    assert count_parameters(car) == 1_182_913
    assert mac_per_pixel(car) == 1_180_800
    assert {layer.kernel_size for layer in layers} == {(3, 3)}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in car.modules())


def test_fast_costs_what_the_design_says() -> None:
    assert mac_per_pixel(Fast()) == 32_076
    assert count_parameters(Fast()) == 128_644


@pytest.mark.parametrize("name", BOTH)
def test_an_untrained_network_changes_less_than_one_grey_level(name: str) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        assert build_network(name)(noise()).abs().max() * 128 < 1


def test_the_output_of_car_stays_within_its_tanh() -> None:
    car = awake("car")
    with torch.no_grad():
        car.tail.weight.mul_(1e4)
    assert car(noise().double()).abs().max() <= 1


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (1, 1)])
def test_any_size_comes_out_as_it_went_in(name: str, size: tuple[int, int]) -> None:
    assert build_network(name)(noise(*size)).shape == (1, 1, *size)


@pytest.mark.parametrize(("name", "config"), [("car", {"channels": 2}), ("fast", {})])
def test_a_pixel_depends_on_its_halo_and_on_no_more(name: str, config: dict[str, int]) -> None:
    network = awake(name, **config)
    picture = noise(128, 128).double().requires_grad_()
    network(picture)[0, 0, 64, 64].backward()
    assert picture.grad is not None
    rows = picture.grad[0, 0].abs().sum(1).nonzero().flatten() - 64
    assert -rows.min() <= network.halo
    assert rows.max() <= network.halo
    assert max(-rows.min(), rows.max()) == (34 if name == "car" else 17)


def test_car_halo_follows_its_blocks() -> None:
    assert Car().halo == 34
    assert Car(CarConfig(blocks=3)).halo == 10


def test_fast_answers_to_the_qp_and_treats_none_as_unknown() -> None:
    fast, picture = awake("fast"), noise().double()
    unknown = torch.full_like(picture, -1.0)
    assert torch.equal(fast(picture), fast(picture, unknown))
    assert not torch.equal(fast(picture), fast(picture, unknown + 1.5))


def test_fast_leaves_finely_coded_blocks_alone_and_fades_in_between() -> None:
    fast, picture = awake("fast"), noise().double()

    def correction(qp: float) -> float:
        return fast(picture, torch.full_like(picture, qp / 51)).abs().mean().item()

    assert correction(0) == 0
    assert correction(16) < 1e-9
    assert 1e-6 < correction(19) < correction(26)
    assert correction(30) > 0
    assert fast(picture).abs().mean() > 0  # unknown QP is not taken for a fine one


@pytest.mark.parametrize("name", BOTH)
def test_a_config_builds_the_same_shape_again(name: str) -> None:
    network = build_network(name, {"channels": 16})
    again = build_network(name, config_of(network))
    again.load_state_dict(network.state_dict())
    assert config_of(again) == config_of(network)
