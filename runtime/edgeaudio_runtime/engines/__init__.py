"""Engines that run a network step; each imports its library only when a program is loaded."""

_PACKAGES = {"numpy": ("numpy",), "onnxruntime": ("onnxruntime",), "litert": ("ai_edge_litert", "tflite_runtime")}


def available_engines() -> tuple[str, ...]:
    """Names of the engines whose package is installed, "numpy" first; nothing is imported to find out."""
    from importlib.util import find_spec

    return tuple(
        name for name, packages in _PACKAGES.items() if any(find_spec(package) is not None for package in packages)
    )
