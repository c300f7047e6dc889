"""What object detectors see: boxes of ONNX models, and their features as a loss."""
