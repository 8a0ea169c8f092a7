"""Lowering: a QDQ ONNX model becomes an integer graph, one pass a module: parse, fuse, borders, layout, build."""
