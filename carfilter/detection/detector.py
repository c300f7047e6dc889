"""Boxes in frames: YOLO detectors through onnxruntime.

A detector is any callable from a BGR frame to `Boxes`; `OnnxDetector` is the one the command line
uses. Nothing here reads video or knows about rows and variants.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.errors import CarfilterError

Bgr = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Plane = npt.NDArray[np.uint8]

TRAFFIC_CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
# The 80 classes of COCO 2017 in the order in which detectors number them, https://cocodataset.org
_COCO = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra,
giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite,
baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork,
knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut,
cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush
"""
COCO_CLASSES = tuple(name.strip() for name in _COCO.split(","))
_STRIDES = (8, 16, 32)
_PADDING = 114  # gray level of the letterbox that YOLOX and its relatives are trained with
_MAX_CANDIDATES = 1000  # boxes that enter the suppression, best first


@dataclass(frozen=True)
class Boxes:
    """What a detector found in one frame, best first."""

    corners: Floats  # [M, 4]: left, top, right, bottom in pixels of the frame
    scores: Floats  # [M] in 0..1
    classes: npt.NDArray[np.int64]  # [M], index into the detector's class names

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, keep: npt.NDArray[Any]) -> "Boxes":
        """Return the boxes at these indices or where this mask is true."""
        return Boxes(self.corners[keep], self.scores[keep], self.classes[keep])


Detector = Callable[[Bgr], Boxes]


@dataclass(frozen=True)
class DetectorSettings:
    """How an ONNX file is run and which of its boxes count."""

    layout: str = "auto"  # yolox, yolov5, yolov8
    at_frame_size: bool = True  # frame rounded up to 32 instead of the size in the file
    score: float = 0.01  # boxes below are dropped; the truth takes those above `truth_score`
    truth_score: float = 0.25
    # One threshold for truth and test: with two, even identical frames score below 1.
    overlap: float = 0.45
    classes: tuple[str, ...] = TRAFFIC_CLASSES


def bgr_from_yuv(y: Plane, u: Plane, v: Plane) -> Bgr:
    """Convert 4:2:0 planes, uint8 [H, W] and twice [ceil(H/2), ceil(W/2)], limited range.

    ITU-R BT.601 up to 576 lines and BT.709 above, chroma repeated. Good enough for a detector, and
    the same for each row that is compared.
    """
    height, width = y.shape
    red, blue = (0.299, 0.114) if height <= 576 else (0.2126, 0.0722)
    green = 1 - red - blue
    full = (y.astype(np.float32) - 16) * np.float32(255 / 219)
    cb, cr = (
        ((plane.astype(np.float32) - 128) * np.float32(255 / 224))
        .repeat(2, axis=0)[:height]
        .repeat(2, axis=1)[:, :width]
        for plane in (u, v)
    )
    b, r = full + 2 * (1 - blue) * cb, full + 2 * (1 - red) * cr
    g = (full - red * r - blue * b) / green
    return np.stack((b, g, r), axis=-1).round().clip(0, 255).astype(np.uint8)


def letterbox(frame: Bgr, size: tuple[int, int]) -> tuple[Floats, float]:
    """Scale a frame into the top left corner of `size` (height, width).

    Returns:
        float32 [size, 3] in 0..255 and the factor by which the frame was scaled.
    """
    height, width = frame.shape[:2]
    factor = min(size[0] / height, size[1] / width)
    if factor != 1:
        from PIL import Image

        scaled = Image.fromarray(frame).resize(
            (max(1, round(width * factor)), max(1, round(height * factor))),
            Image.Resampling.BILINEAR,
        )
        frame = np.asarray(scaled)
    out = np.full((*size, 3), _PADDING, np.float32)
    out[: frame.shape[0], : frame.shape[1]] = frame
    return out, factor


def decode_yolox(raw: Floats, size: tuple[int, int]) -> Floats:
    """Turn YOLOX's output [A, 5 + C] into centre x, y, width, height in pixels of the input.

    Anchor-free (Ge et al., YOLOX, arXiv:2107.08430, section 2.1): offsets count in cells of the
    grids of stride 8, 16 and 32, sizes are logarithms.
    """
    centres, strides = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        centres.append(np.stack((columns.ravel(), rows.ravel()), axis=1))
        strides.append(np.full((rows.size, 1), stride))
    grid = np.concatenate(centres).astype(np.float32)
    stride_of = np.concatenate(strides).astype(np.float32)
    if len(grid) != len(raw):
        raise CarfilterError(
            f"the detector returned {len(raw)} boxes where YOLOX has {len(grid)} at"
            f" {size[1]}x{size[0]}; name its layout with --detector-layout"
        )
    out = raw.copy()
    out[:, :2] = (raw[:, :2] + grid) * stride_of
    out[:, 2:4] = np.exp(raw[:, 2:4]) * stride_of
    return out


def overlaps(one: Floats, many: Floats) -> Floats:
    """Return the intersection over union of boxes [N, 4] with boxes [M, 4], float32 [N, M]."""
    top_left = np.maximum(one[:, None, :2], many[None, :, :2])
    bottom_right = np.minimum(one[:, None, 2:], many[None, :, 2:])
    inner = np.prod(np.clip(bottom_right - top_left, 0, None), axis=2)
    areas = [np.prod(np.clip(b[:, 2:] - b[:, :2], 0, None), axis=1) for b in (one, many)]
    union = areas[0][:, None] + areas[1][None] - inner
    return np.asarray(inner / np.maximum(union, np.float32(1e-9)), np.float32)


def suppress(boxes: Boxes, overlap: float) -> Boxes:
    """Drop each box that overlaps a better one of its class by more than `overlap`."""
    order = np.argsort(-boxes.scores, kind="stable")[:_MAX_CANDIDATES]
    boxes = boxes.select(order)
    rival = overlaps(boxes.corners, boxes.corners) > overlap
    rival &= boxes.classes[:, None] == boxes.classes[None]
    keep = np.ones(len(boxes), bool)
    for index in range(len(boxes)):
        if keep[index]:
            keep[index + 1 :] &= ~rival[index, index + 1 :]
    return boxes.select(keep)


class OnnxDetector:
    """A YOLO model in an ONNX file, run on the CPU by onnxruntime.

    Layouts: `yolox` (BGR 0..255, [1, A, 5+C], grid-coded), `yolov5` (RGB 0..1, [1, A, 5+C], pixels)
    and `yolov8` (RGB 0..1, [1, 4+C, A], pixels, no objectness).
    """

    def __init__(
        self, path: Path, settings: DetectorSettings | None = None, threads: int = 0
    ) -> None:
        """Open the model.

        Args:
            threads: for one frame; 0 takes as many as onnxruntime finds.

        Raises:
            CarfilterError: missing, damaged, not one image in and one list of boxes out, or the
                packages of the `eval` extra are missing.
        """
        try:
            import onnxruntime  # type: ignore[import-untyped]
        except ImportError as error:
            raise CarfilterError(
                f"{path}: running a detector needs onnxruntime; pip install carfilter[eval]"
            ) from error
        self.settings = settings or DetectorSettings()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # warnings about the shapes that dynamic_shape() freed
        try:
            content = path.read_bytes()
            if self.settings.at_frame_size:
                content = dynamic_shape(content)
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except OSError as error:
            raise CarfilterError(
                f"{path}: cannot be read ({error.strerror}); check the path"
            ) from error
        except (RuntimeError, ValueError) as error:
            raise CarfilterError(f"{path}: not a usable ONNX model; export it again") from error
        self._input = self._session.get_inputs()[0]
        self.layout = self._find_layout(path)
        self.class_names = self._find_names()

    def _find_layout(self, path: Path) -> str:
        if self.settings.layout != "auto":
            return self.settings.layout
        shape = self._session.get_outputs()[0].shape
        if len(self._input.shape) != 4 or len(shape) != 3:
            raise CarfilterError(
                f"{path}: not a YOLO detector with one picture in and one list of boxes out"
                f" (its output is {shape}); export it without its own suppression"
            )
        transposed = all(isinstance(n, int) for n in shape[1:]) and shape[1] < shape[2]
        return "yolov8" if transposed else "yolox"

    def _find_names(self) -> tuple[str, ...]:
        stored = self._session.get_modelmeta().custom_metadata_map.get("names")
        try:  # exporters store a Python dictionary or list as text
            names = ast.literal_eval(stored) if stored else COCO_CLASSES
        except (ValueError, SyntaxError):
            return COCO_CLASSES
        return tuple(names.values() if isinstance(names, dict) else names)

    def _input_size(self, frame: Bgr) -> tuple[int, int]:
        height, width = self._input.shape[2:]
        if isinstance(height, int) and isinstance(width, int):
            return height, width
        return -(-frame.shape[0] // 32) * 32, -(-frame.shape[1] // 32) * 32

    def __call__(self, frame: Bgr) -> Boxes:
        """Return the boxes of a frame, uint8 [H, W, 3]: only the classes of the settings."""
        size = self._input_size(frame)
        picture, factor = letterbox(frame, size)
        if self.layout != "yolox":
            picture = picture[..., ::-1] / np.float32(255)
        tensor = np.ascontiguousarray(picture.transpose(2, 0, 1)[None])
        raw = self._session.run(None, {self._input.name: tensor})[0][0]
        return suppress(self._boxes(raw, size, factor, frame), self.settings.overlap)

    def _boxes(self, raw: Floats, size: tuple[int, int], factor: float, frame: Bgr) -> Boxes:
        if self.layout == "yolox":
            raw = decode_yolox(raw, size)
        if self.layout == "yolov8":
            raw, per_class = raw.T, raw.T[:, 4:]
        else:
            per_class = raw[:, 5:] * raw[:, 4:5]
        classes = per_class.argmax(axis=1)
        scores = per_class[np.arange(len(raw)), classes]
        wanted = [i for i, name in enumerate(self.class_names) if name in self.settings.classes]
        keep = (scores >= self.settings.score) & np.isin(classes, wanted)
        centre, half = raw[keep, :2], raw[keep, 2:4] / 2
        corners = np.concatenate((centre - half, centre + half), axis=1) / np.float32(factor)
        limit = np.array([frame.shape[1], frame.shape[0]] * 2, np.float32)
        return Boxes(corners.clip(0, limit).astype(np.float32), scores[keep], classes[keep])


def dynamic_shape(content: bytes) -> bytes:
    """Free the height and width of an ONNX model that has no fixed sizes inside its graph.

    Returned as it is where the `onnx` package is missing or the model already takes any size. Its
    declared output loses its box count; the layout is still told by the order of the axes.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError:
        return content
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ValueError("not an ONNX file") from error
    if not model.graph.input or not model.graph.output:
        raise ValueError("an ONNX file without a graph")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    outputs = model.graph.output[0].type.tensor_type.shape.dim
    if len(dims) != 4 or not dims[2].dim_value or len(outputs) != 3:
        return content
    if outputs[1].dim_value < outputs[2].dim_value:  # yolov8 graphs hold their grid as constants
        return content
    dims[2].dim_param, dims[3].dim_param, outputs[1].dim_param = "height", "width", "boxes"
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())
