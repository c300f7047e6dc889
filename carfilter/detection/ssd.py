"""SSD detectors of TensorFlow's model zoo, run by OpenCV."""

from pathlib import Path
from threading import Lock

import numpy as np

from carfilter.detection.detector import COCO_CLASSES, Bgr, Boxes, DetectorSettings
from carfilter.errors import CarfilterError

_SIDE = 300  # pixels of its square input
# COCO numbered 91 classes in 2014 and uses 80 of them; these numbers are left out.
_UNUSED = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_USED = [number for number in range(91) if number not in _UNUSED]


class SsdDetector:
    """A frozen graph (.pb) with its description for OpenCV (.pbtxt) beside it, COCO classes."""

    layout = "ssd"
    class_names = COCO_CLASSES

    def __init__(self, path: Path, settings: DetectorSettings | None = None) -> None:
        """Open the model.

        Raises:
            CarfilterError: missing or damaged, no .pbtxt or several beside it, or no OpenCV.
        """
        try:
            import cv2
        except ImportError as error:
            raise CarfilterError(
                f"{path}: running it needs OpenCV; pip install opencv-python-headless"
            ) from error
        self.settings = settings or DetectorSettings()
        described = sorted(path.parent.glob("*.pbtxt"))
        if not path.exists() or len(described) != 1:
            raise CarfilterError(f"{path}: there has to be that file and one .pbtxt beside it")
        try:
            self._network = cv2.dnn.readNetFromTensorflow(str(path), str(described[0]))
        except cv2.error as error:
            raise CarfilterError(
                f"{path}: not a usable TensorFlow model; fetch it again"
            ) from error
        # A network of OpenCV's holds its input and layers between calls.
        self._one_at_a_time = Lock()
        self._wanted = [i for i, name in enumerate(COCO_CLASSES) if name in self.settings.classes]

    def __call__(self, frame: Bgr) -> Boxes:
        """Return the boxes of a frame, uint8 [H, W, 3]: only the classes of the settings.

        The frame is squeezed into the square that the network was trained on, and the network's own
        suppression stands for that of the settings.
        """
        import cv2

        blob = cv2.dnn.blobFromImage(frame, size=(_SIDE, _SIDE), swapRB=True, crop=False)
        with self._one_at_a_time:
            self._network.setInput(blob)
            found = self._network.forward().reshape(-1, 7)  # image, class, score, box in 0..1
        numbers = found[:, 1].astype(np.int64)
        classes = np.searchsorted(_USED, numbers)
        keep = (found[:, 2] >= self.settings.score) & np.isin(numbers, _USED)
        keep &= np.isin(classes, self._wanted)
        height, width = frame.shape[:2]
        corners = found[keep, 3:7].clip(0, 1) * np.array([width, height] * 2, np.float32)
        order = np.argsort(-found[keep, 2], kind="stable")
        return Boxes(corners.astype(np.float32)[order], found[keep, 2][order], classes[keep][order])
