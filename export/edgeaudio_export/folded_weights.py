"""The weights that a network is exported with: batch normalizations folded, named by the layer of the graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeaudio_export import operations
from edgeaudio_export.checks import check_network, place
from edgeaudio_export.network import StreamingNetwork, frozen_copy
from edgeaudio_export.step_graph import constant, export_step


def folded_weights(network: StreamingNetwork) -> dict[str, npt.NDArray[np.float32]]:
    """Weight tensors ``[O, ...]`` by ``"<module>/<operation>"``, in the order of the graph.

    Raises:
        ExportError: A weight holds NaN, or the network cannot be exported; one line with the name.
    """
    check_network(network)
    module = export_step(frozen_copy(network)).module
    return {
        f"{place(node)[1:-1]}/{node.name}": constant(module, node.args[1]).numpy()
        for node in module.graph.nodes
        if str(node.target) in operations.WEIGHTED
    }
