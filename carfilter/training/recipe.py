"""How a model is trained: recipe, budget, learning rate and loss, as pure functions."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from carfilter.metrics import ssim_of_batch

_CHARBONNIER = 1e-3  # in units of 128 grey levels: an eighth of a level
# Squared grey levels that are added to a frame's error, or one that is nearly clean would outweigh
# all others.
_FLOOR = 2.0
# How many times as wrong as its frame was a crop counts in full. The few beyond, whose references
# show something else, come to hundreds, and a step would be theirs alone: they count by their
# logarithm.
_MOST = 3.0

_BLOCK = 16  # pixels a side, of which harm_of() asks whether they got worse

_STILL = 1.5 / 128  # changes by less than two grey levels
_CALM = 1.0 / 128  # and its surroundings by less than one on average


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the defaults are ours, paper_recipe() is Aqqa & Shah's."""

    model: str = "fast"
    channels: int | None = None  # of each layer; None is the model's own number
    layers: int | None = None  # of fast and best, between head and tail; None likewise
    blocks: int | None = None  # residual ones of `car`; None is what there is, 15 in a new one
    loss: str = "mse"  # mse, ssim, both, charbonnier
    alpha: float = 0.79  # weight of the SSIM term in `both`
    balance: float = 0.5  # weigh a sample by its frame's error to the power of minus this
    flicker: float = 0.0  # weight of what still areas flicker, in grey levels
    feature_weight: float = 0.0  # of what a frozen detector sees differently
    detector: str = ""  # sha256 of its file
    harm: float = 0.0  # weight of what blocks lose, beside the error of all
    teacher: str = ""  # sha256 of a model's file; half of what is learned is what it makes
    aimed: float = 0.0  # share of crops that show something which the detector sees
    ramp: int = 0  # steps in which `balance` grows from 0
    batch: int = 16
    crop: int = 64
    late_crop: int | None = 96  # in the last third, with as many pixels to a batch
    lr: float = 5e-4
    tail_rate: float = 0.1  # the tail's share of lr: its weights are as much smaller
    tail_first: int = 200  # steps in which only the tail learns
    betas: tuple[float, float] = (0.9, 0.99)
    schedule: str = "cosine"  # or constant
    final_lr: float = 1e-6
    warmup: int = 500  # steps
    clip: float | None = 0.5  # norm of the gradient
    centre: bool = True  # see centre_gradients()
    average: float = 0.999  # decay of the averaged weights; 0 keeps the last ones
    hard: float = 0.5
    qp_dropout: float = 0.2
    window: str = "mixed"  # which other pictures crops of `best` see; see dataset.WINDOWS
    transpose: bool = True
    seed: int = 0


def paper_recipe(model: str = "car", loss: str = "both") -> Recipe:
    """Return the recipe of CAR-CNN, VISAPP 2020, section 4.3; "momentum 0.9" is Adam's beta1."""
    return Recipe(
        model=model,
        loss=loss,
        balance=0.0,
        ramp=0,
        batch=128,
        late_crop=None,
        lr=1e-4,
        tail_rate=1.0,
        tail_first=0,
        betas=(0.9, 0.999),
        schedule="constant",
        warmup=0,
        clip=None,
        centre=False,
        average=0.0,
        hard=0.0,
        qp_dropout=0.0,
        transpose=False,
    )


@dataclass(frozen=True)
class Budget:
    """When training ends: after so many steps or so much time, all runs of it together."""

    steps: int | None = None
    seconds: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """Return the spent share, 0..1 or more."""
        if self.steps is not None:
            return step / max(self.steps, 1)
        return seconds / max(self.seconds or 0.0, 1e-9)


def learning_rate(recipe: Recipe, step: int, progress: float) -> float:
    """Return the rate of a step: a linear warm-up in steps times a cosine over the budget.

    A function of the spent share alone: with a larger budget a resumed run goes on where that
    budget's own cosine stands.
    """
    warm = 1.0
    if recipe.warmup and step >= recipe.tail_first:
        warm = min(1.0, (step - recipe.tail_first + 1) / recipe.warmup)
    if recipe.schedule == "constant":
        return recipe.lr * warm
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return warm * (recipe.final_lr + (recipe.lr - recipe.final_lr) * cosine)


def loss_of(recipe: Recipe, restored: Tensor, clean: Tensor, error: Tensor, step: int) -> Tensor:
    """Return the loss of a batch, a scalar: error, and flicker where the recipe weighs it.

    Args as of error_of() and flicker_of().
    """
    loss = error_of(recipe, restored, clean, error, step)
    return loss + recipe.flicker * flicker_of(restored, clean) if recipe.flicker else loss


def harm_of(restored: Tensor, degraded: Tensor, clean: Tensor, error: Tensor) -> Tensor:
    """Return by how much blocks came out worse than they were, a scalar, relative to their frame.

    A detector's features are content with patterns in flat places that help it a little and that
    error_of(), a mean over all blocks, hardly sees.

    Args:
        restored, degraded, clean: float [N, 1, H, W], luma in -1..1, H and W of 16s.
        error: float [N], as of error_of().
    """
    after, before = (
        F.avg_pool2d((luma - clean).square() * 128**2, _BLOCK) for luma in (restored, degraded)
    )
    worse = (after - before).clamp_min(0) / (error + _FLOOR)[:, None, None, None]
    return worse.clamp_max(_MOST).mean()


def flicker_of(restored: Tensor, clean: Tensor) -> Tensor:
    """Return how much still areas flicker, in grey levels, as metrics.static_flicker() has it.

    Still is what hardly changes together with its surroundings: the pixels of a moving picture that
    happen to change little would outweigh all others, and teach to smear motion.

    Args:
        restored, clean: float [2N, 1, H, W], luma in -1..1; the second N are the first N a frame
            later.
    """
    before, after = restored.chunk(2)
    clean_before, clean_after = clean.chunk(2)
    truth = clean_after - clean_before
    around = F.avg_pool2d(truth.abs(), 9, 1, 4, count_include_pad=False)
    calm = (truth.abs() < _STILL) & (around < _CALM)
    wrong = (after - before - truth).abs() * calm
    return wrong.sum() / calm.sum().clamp_min(1) * 128


def error_of(recipe: Recipe, restored: Tensor, clean: Tensor, error: Tensor, step: int) -> Tensor:
    """Return how wrong a batch is, a scalar; luma is taken in 0..1 for every term.

    Args:
        restored, clean: float [N, 1, H, W], luma in -1..1.
        error: float [N], error of each sample's whole frame before restoration, in squared levels.
        step: counts the ramp of `balance`.

    With `balance` b each sample counts (its frame's error)^-b, relative to the batch's mean for
    Charbonnier and SSIM. For MSE and b = 1 the loss is the restored error over the degraded one,
    whose slope is that of the mean PSNR: good frames matter as much as bad ones. It is bounded
    then.
    """
    balance = recipe.balance * (min(1.0, step / recipe.ramp) if recipe.ramp else 1.0)
    weight = (error + _FLOOR) ** -balance
    weight = weight * 255 ** (2 * balance) if recipe.loss == "mse" else weight / weight.mean()
    # Luma in -1..1 spans 256 levels, in 0..1 it spans 255.
    difference = (restored - clean) * (128 / 255)
    if recipe.loss == "charbonnier":
        smooth = torch.sqrt(difference.square() + (_CHARBONNIER / 2) ** 2).mean((1, 2, 3))
        return (weight * smooth).mean()
    squares = difference.square().mean((1, 2, 3))
    if recipe.loss == "mse":
        loss = weight * squares
        if balance == 1:
            loss = torch.where(loss > _MOST, _MOST * (1 + (loss / _MOST).clamp(1).log()), loss)
        return loss.mean()
    unlike = 1 - ssim_of_batch((clean + 1) * (128 / 255), (restored + 1) * (128 / 255), 1.0)
    if recipe.loss == "ssim":
        return (weight * unlike).mean()
    return (weight * (recipe.alpha * unlike + (1 - recipe.alpha) * squares)).mean()
