"""Boxes from ONNX files, their suppression, and mean average precision."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from carfilter.commands.evaluate import main
from carfilter.detection.detector import (
    Boxes,
    DetectorSettings,
    OnnxDetector,
    bgr_from_yuv,
    dynamic_shape,
    overlaps,
    suppress,
)
from carfilter.detection.ssd import SsdDetector
from carfilter.errors import CarfilterError
from carfilter.evaluation.average_precision import (
    SMALL,
    Precision,
    _matches,
    _weighted_mean,
    average_precision,
    difference_interval,
    truth_of,
)
from carfilter.evaluation.detection_scores import DetectionScores, Group, Judge
from carfilter.evaluation.evaluate import Evaluation
from carfilter.evaluation.verdicts import _detection_of
from detectors import SIDE, save_detector, yolox_output
from scenes import draw_clip, save_clip, save_model

AT_FILE_SIZE = DetectorSettings(at_frame_size=False)
NAMES = {0: "person", 1: "car"}


def boxes(*rows: tuple[float, float, float, float, float, int]) -> Boxes:
    """Left, top, right, bottom, score, class."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Boxes(
        table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(int)
    )


def random_frames(rng: np.random.Generator, frames: int, shift: float) -> list[Boxes]:
    """Boxes on a grid, moved at random by up to `shift` pixels."""
    found = []
    for _ in range(frames):
        count = int(rng.integers(1, 7))
        corner = np.arange(count)[:, None] * 40 + rng.uniform(-shift, shift, (count, 2))
        kind = np.arange(count) % 2
        table = np.concatenate((corner, corner + 20), axis=1).astype(np.float32)
        found.append(Boxes(table, rng.uniform(0.3, 1, count).astype(np.float32), kind))
    return found


def test_a_yolox_box_lands_where_its_grid_cell_says(tmp_path: Path) -> None:
    # Anchor 2 * 8 + 3 is row 2, column 3 of the grid of stride 8.
    output = yolox_output({19: [0.5, 0.25, math.log(2), math.log(3), 0.9, 0.1, 0.8, 0.0]})
    detector = OnnxDetector(save_detector(tmp_path / "d.onnx", output), AT_FILE_SIZE)

    found = detector(np.zeros((SIDE, SIDE, 3), np.uint8))

    centre, half = np.array([3.5 * 8, 2.25 * 8]), np.array([8.0, 12.0])
    np.testing.assert_allclose(found.corners, [[*(centre - half), *(centre + half)]], rtol=1e-5)
    np.testing.assert_allclose(found.scores, [0.72], rtol=1e-5)
    assert detector.class_names[found.classes[0]] == "car"


def test_boxes_are_scaled_back_to_the_frame_and_cut_at_its_edge(tmp_path: Path) -> None:
    output = yolox_output({19: [0.5, 0.25, math.log(2), math.log(9), 1, 1, 0, 0]})
    detector = OnnxDetector(save_detector(tmp_path / "d.onnx", output), AT_FILE_SIZE)

    found = detector(np.zeros((96, 128, 3), np.uint8))  # half size fits into 64x64

    np.testing.assert_allclose(found.corners, [[40, 0, 72, 96]], rtol=1e-5)


def test_a_yolov8_file_is_told_by_its_axes(tmp_path: Path) -> None:
    output = np.zeros((1, 4 + 3, 84), np.float32)
    output[0, :, 5] = [32, 16, 20, 10, 0.1, 0.6, 0.0]
    detector = OnnxDetector(save_detector(tmp_path / "d.onnx", output), AT_FILE_SIZE)

    found = detector(np.zeros((SIDE, SIDE, 3), np.uint8))

    assert detector.layout == "yolov8"
    np.testing.assert_allclose(found.corners, [[22, 11, 42, 21]])


def test_classes_that_do_not_count_are_left_out(tmp_path: Path) -> None:
    output = yolox_output({0: [0, 0, 0, 0, 1, 0, 0, 1], 1: [0, 0, 0, 0, 1, 1, 0, 0]})
    detector = OnnxDetector(save_detector(tmp_path / "d.onnx", output), AT_FILE_SIZE)

    found = detector(np.zeros((SIDE, SIDE, 3), np.uint8))

    assert [detector.class_names[kind] for kind in found.classes] == ["person"]


def test_a_fixed_yolox_graph_is_freed_to_take_any_size(tmp_path: Path) -> None:
    path = save_detector(tmp_path / "d.onnx", yolox_output({}))

    freed = onnx.load_model_from_string(dynamic_shape(path.read_bytes()))

    dims = freed.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in dims[2:]] == ["height", "width"]


def test_a_yolov8_graph_keeps_its_size(tmp_path: Path) -> None:
    path = save_detector(tmp_path / "d.onnx", np.zeros((1, 7, 84)))
    assert dynamic_shape(path.read_bytes()) == path.read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"not a model at all"])
def test_a_missing_or_damaged_detector_is_one_sentence(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "d.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CarfilterError, match=r"d\.onnx"):
        OnnxDetector(path)


def test_boxes_in_the_wrong_layout_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = save_detector(tmp_path / "d.onnx", np.ones((1, 10, 8)) * 0.5)
    settings = DetectorSettings(at_frame_size=False, layout="yolox")
    with pytest.raises(CarfilterError, match="--detector-layout"):
        OnnxDetector(path, settings)(np.zeros((SIDE, SIDE, 3), np.uint8))


def test_overlap_is_intersection_over_union() -> None:
    one = boxes((0, 0, 10, 10, 1, 0)).corners
    many = boxes((0, 0, 10, 10, 1, 0), (5, 0, 15, 10, 1, 0), (20, 20, 30, 30, 1, 0)).corners
    np.testing.assert_allclose(overlaps(one, many), [[1, 1 / 3, 0]], atol=1e-6)


def test_suppression_keeps_the_best_of_a_class_and_all_classes() -> None:
    found = boxes((1, 0, 11, 10, 0.6, 0), (0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.5, 1))
    kept = suppress(found, 0.45)
    np.testing.assert_allclose(kept.scores, [0.9, 0.5], rtol=1e-6)


def test_gray_and_primary_colours_survive_the_conversion_for_the_detector() -> None:
    y = np.array([[16, 235], [81, 81]], np.uint8).repeat(2, 0).repeat(2, 1)
    u = np.array([[128, 128], [90, 90]], np.uint8)
    v = np.array([[128, 128], [240, 240]], np.uint8)
    bgr = bgr_from_yuv(y, u, v)
    np.testing.assert_allclose(bgr[0, 0], [0, 0, 0], atol=1)
    np.testing.assert_allclose(bgr[0, 3], [255, 255, 255], atol=1)
    np.testing.assert_allclose(bgr[3, 0], [0, 0, 255], atol=2)  # BT.601's red


def test_map_of_a_clip_with_itself_is_one(rng: np.random.Generator) -> None:
    frames = random_frames(rng, 12, 5)
    result = average_precision(truth_of(frames, 0.25), frames, NAMES)
    assert result.mean == pytest.approx(1, abs=1e-12)


def test_map_agrees_with_a_hand_computed_curve() -> None:
    truth = [boxes((0, 0, 10, 10, 1, 0), (50, 0, 60, 10, 1, 0))]
    test = [boxes((0, 0, 10, 10, 0.9, 0), (90, 90, 99, 99, 0.8, 0), (50, 0, 60, 10, 0.7, 0))]
    result = average_precision(truth, test, {0: "person"})
    # Precision 1 up to recall 1/2 (51 of COCO's 101 points), 2/3 beyond it.
    assert result.mean == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-6)
    assert (result.classes["person"].truths, result.classes["person"].found) == (2, 3)


def test_classes_without_truth_do_not_count() -> None:
    frames = [boxes((0, 0, 10, 10, 0.9, 0))]
    result = average_precision(frames, frames, NAMES)
    assert result.mean == pytest.approx(1, abs=1e-12)
    assert math.isnan(result.classes["car"].precision)


def test_a_class_with_a_handful_of_boxes_does_not_move_the_mean() -> None:
    person, bus = (0, 0, 10, 10, 0.9, 0), (50, 50, 60, 60, 0.9, 1)
    truth = [boxes(person, bus), *(boxes(person) for _ in range(24))]
    test = [boxes(person)] * 25
    result = average_precision(truth, test, NAMES)
    assert result.counted == ("person",)
    assert result.mean == pytest.approx(1, abs=1e-12)
    assert result.classes["car"].precision == 0
    assert difference_interval(truth, test, truth, NAMES, [0] * 25, 20) == (0, 0)


def test_no_truth_at_all_is_not_a_number() -> None:
    nothing = [boxes()]
    assert math.isnan(average_precision(nothing, nothing, NAMES).mean)
    assert all(map(math.isnan, difference_interval(nothing, nothing, nothing, NAMES, [0], 10)))


def test_resampling_counts_as_pycocotools_does(rng: np.random.Generator) -> None:
    truth, test = random_frames(rng, 20, 5), random_frames(rng, 20, 9)
    ours = _weighted_mean(_matches(truth, test, NAMES), np.ones(20, int))
    assert ours == pytest.approx(average_precision(truth, test, NAMES).mean, abs=1e-9)
    assert 0.05 < ours < 0.95  # the comparison is of something


def test_a_frame_drawn_twice_counts_twice(rng: np.random.Generator) -> None:
    truth, test = random_frames(rng, 6, 5), random_frames(rng, 6, 9)
    drawn = [0, 0, 3, 5, 5, 5]
    weights = np.bincount(drawn, minlength=6)
    ours = _weighted_mean(_matches(truth, test, NAMES), weights)
    theirs = average_precision([truth[i] for i in drawn], [test[i] for i in drawn], NAMES)
    assert ours == pytest.approx(theirs.mean, abs=0.02)  # ties between twins may be ordered anew


def test_the_bootstrap_sees_a_clear_loss_and_no_loss(rng: np.random.Generator) -> None:
    truth = random_frames(rng, 20, 5)
    worse = [boxes() if index % 3 else frame for index, frame in enumerate(truth)]
    assert difference_interval(truth, truth, truth, NAMES, [0] * 20, 100) == (0, 0)
    low, high = difference_interval(truth, worse, truth, NAMES, [0] * 20, 100)
    assert low < high < -0.1


def test_clips_that_differ_widen_the_interval(rng: np.random.Generator) -> None:
    truth = random_frames(rng, 24, 5)
    worse = [boxes() if index < 12 else frame for index, frame in enumerate(truth)]
    one_clip = difference_interval(truth, worse, truth, NAMES, [0] * 24, 200)
    two_clips = difference_interval(truth, worse, truth, NAMES, [0] * 12 + [1] * 12, 200)
    assert two_clips[1] == 0  # the good clip was drawn twice
    assert two_clips[0] < one_clip[0]


def test_small_things_are_counted_apart() -> None:
    small, large = (0, 0, 20, 20, 0.9, 0), (40, 40, 140, 140, 0.8, 0)
    truth, test = [boxes(small, large)], [boxes(large)]
    assert average_precision(truth, test, NAMES).mean == pytest.approx(0.5, abs=0.01)
    assert average_precision(truth, test, NAMES, SMALL).mean == 0
    assert average_precision(truth, [boxes(small)], NAMES, SMALL).mean == pytest.approx(1)


def test_an_ssd_without_its_description_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    path = tmp_path / "graph.pb"
    path.write_bytes(b"no graph")
    with pytest.raises(CarfilterError, match=r"one \.pbtxt beside it"):
        SsdDetector(path)
    path.with_suffix(".pbtxt").write_text("nothing")
    with pytest.raises(CarfilterError, match="fetch it again"):
        SsdDetector(path)


def test_two_detectors_judge_two_folders_apart(tmp_path: Path) -> None:
    for seed, folder in enumerate(("val", "check")):
        (tmp_path / folder / "video").mkdir(parents=True)
        clip = draw_clip(seed, frames=6)
        step = 7 if folder == "val" else 0  # a camera that pans, and one that does not
        clip = replace(clip, luma=np.stack([np.roll(clip.luma[0], step * t, 1) for t in range(6)]))
        save_clip(tmp_path / folder / "video" / f"{folder}.mkv", clip)
    shapes = {"first": [0.5, 0.5, 0, 0, 0.9, 0, 1, 0], "second": [0.5, 0.5, 1, 1, 0.9, 1, 0, 0]}
    for name, cell in shapes.items():
        save_detector(tmp_path / f"{name}.onnx", yolox_output({80: cell}))
    command = [str(tmp_path / folder / "video") for folder in ("val", "check")]
    for name in shapes:
        command += ["--detector", str(tmp_path / f"{name}.onnx")]
    command += ["--detector-size", "file", "--no-shipped", "--no-spp", "--no-vmaf", "--paper"]
    command += ["-g", "3", "-bf", "0", "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(
        main, [*command, "--weights", str(save_model(tmp_path / "tiny.pt")), "--json", "-"]
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    tables = {table["key"]: table for table in found["tables"]}
    for name in shapes:
        labels = [row for row, _ in tables[f"map_groups_{name}"]["rows"]]
        groups = list(dict.fromkeys(label.split(":")[0] for label in labels))
        assert groups == ["val", "check", "fixed cameras", "moving cameras", "small things"]
        assert len(tables[f"map_clips_{name}"]["rows"]) == 2 * 2  # clips x rows
    assert "3, 0 B-frames in a row" in found["record"]["variants"]
    bars = [bar for bar in found["bars"] if "tiny" in bar["sentence"]]
    assert [bar["met"] for bar in bars] == [True, True]  # these detectors see what they always see


def test_folders_beside_each_other_are_judged_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("day/gate", "day/yard", "night/gate")]
    for folder in paths:
        folder.mkdir(parents=True)
        save_clip(folder / f"{folder.parent.name}_{folder.name}.mkv", draw_clip(frames=3))
    detector = save_detector(
        tmp_path / "eye.onnx", yolox_output({80: [0.5, 0.5, 0, 0, 9, 0, 9, 0]})
    )
    command = [*paths, "--detector", detector, "--detector-size", "file", "-preset", "ultrafast"]
    command += ["--no-shipped", "--no-spp", "--no-vmaf", "--cache", tmp_path / "c", "--json", "-"]
    result = CliRunner().invoke(main, [str(part) for part in command])
    assert result.exit_code == 0, result.stderr
    tables = {table["key"]: table for table in json.loads(result.stdout)["tables"]}
    groups = [label.split(":")[0] for label, _ in tables["map_groups_eye"]["rows"]]
    assert groups[:3] == ["day/gate", "day/yard", "night"]


def test_a_row_is_judged_by_its_worst_folder_and_clip() -> None:
    column = (41, (None,))

    def group(row: float) -> Group:
        return Group({("decode", column): 0.5, ("fast", column): row}, 30)

    score = Precision(0.5, {}, ())
    found = DetectionScores(
        judge=Judge("eye", "boxes", {0: "car"}, 0.25),
        frames=10,
        scores={("decode", column): score, ("fast", column): score},
        intervals={},
        groups={"check": group(0.49)},
        clips={"road": group(0.46), "yard": group(0.54)},
    )
    evaluation = Evaluation(columns=[column], groups={"check": ("road", "yard")})
    verdict = _detection_of(evaluation, found, "fast")
    assert verdict.met is False
    assert "check CRF 41 (-0.010), road CRF 41 (-0.040)." in verdict.sentence


@pytest.mark.parametrize(
    ("seen", "met"), [({}, None), ({80: [0.5, 0.5, 0, 0, 0.9, 0, 1, 0]}, False)]
)
def test_a_bar_is_met_by_nothing_that_was_not_tested(
    tmp_path: Path, seen: dict[int, list[float]], met: bool | None
) -> None:
    clip = save_clip(tmp_path / "a.mkv", draw_clip(frames=3))
    detector = save_detector(tmp_path / "eye.onnx", yolox_output(seen))
    command = [clip, "--detector", detector, "--detector-size", "file", "-preset", "ultrafast"]
    command += ["--weights", save_model(tmp_path / "detect.pt"), "--cache", tmp_path / "cache"]
    command += ["--no-shipped", "--no-spp", "--no-vmaf", "--paper", "--json", "-"]
    result = CliRunner().invoke(main, [str(part) for part in command])
    assert result.exit_code == 0, result.stderr
    (bar,) = [one for one in json.loads(result.stdout)["bars"] if "`detect`" in one["sentence"]]
    assert bar["met"] is met
    assert "spp" not in bar["sentence"]
    assert ("nothing to find" in bar["sentence"]) == (met is None)
