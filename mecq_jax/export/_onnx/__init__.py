"""ONNX files with packed weights: tracing, operators, graphs."""
