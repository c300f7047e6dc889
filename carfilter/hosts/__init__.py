"""Our networks in other people's programs: files of ONNX, a function for VapourSynth."""
