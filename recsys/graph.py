"""The shared mathematics of graph recommenders: the normalised user-item graph, item neighbour graphs, and
products with them.

A node vector table is [N, D] with the U users first and the I items after them, N = U + I.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.autograd.function import FunctionCtx

from recsys.ranking import best_columns, blocks


def normalised_adjacency(matrix: sparse.csr_array) -> sparse.csr_array:
    """D^-1/2 A D^-1/2 of the bipartite graph A = [[0, R], [R^T, 0]], CSR float32 [N, N].

    A node without edges has an empty row: no epsilon is added to the degrees, which would only blur the
    others.
    """
    weights = matrix.tocoo()
    users, items = np.diff(matrix.indptr), np.bincount(matrix.indices, minlength=matrix.shape[1])
    values = 1.0 / np.sqrt(users[weights.row].astype(np.float64) * items[weights.col])
    normalised = sparse.csr_array((values.astype(np.float32), (weights.row, weights.col)), shape=matrix.shape)
    return sparse.block_array([[None, normalised], [normalised.T, None]], format="csr").astype(np.float32)


def knn_graph(
    features: NDArray[np.float32],
    present: NDArray[np.bool_],
    k: int,
    *,
    places: NDArray[np.int64],
    block: int = 512,
) -> sparse.csr_array:
    """Exact k nearest neighbours by cosine, CSR float32 [I, I], every edge 1/k, an item being its own first
    neighbour.

    The frozen item graph of FREEDOM: its symmetric normalisation by row degree is 1/k everywhere, as each row
    has k edges. Rows and columns of absent items are empty; where fewer than k items are present, k is their
    number. Equal cosines go by `places`. Memory is one block of similarities, `block` x I.
    """
    rows, neighbours, _ = nearest(features, present, k, places=places, block=block)
    k = neighbours.shape[1]
    values = np.full(len(rows) * k, 1.0 / max(k, 1), dtype=np.float32)
    return sparse.csr_array(
        (values, (np.repeat(rows, k), neighbours.ravel())), shape=(len(present), len(present))
    )


def cosine_graph(
    features: NDArray[np.float32], present: NDArray[np.bool_], k: int, *, places: NDArray[np.int64]
) -> sparse.csr_array:
    """The edges of `knn_graph`, each with its cosine, negative ones left out; CSR float32 [I, I]."""
    rows, neighbours, cosines = nearest(features, present, k, places=places)
    shape = (len(present), len(present))
    edges = (np.repeat(rows, neighbours.shape[1]), neighbours.ravel())
    graph = sparse.csr_array((np.maximum(cosines, 0).ravel(), edges), shape=shape)
    graph.eliminate_zeros()
    return graph


def nearest(
    features: NDArray[np.float32],
    present: NDArray[np.bool_],
    k: int,
    *,
    places: NDArray[np.int64],
    block: int = 512,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Rows of the P present items [P], their k nearest by cosine, themselves first [P, k], and the cosines.

    Memory is one block of similarities, `block` x P.
    """
    rows = np.flatnonzero(present)
    vectors = features[rows].astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    own_places = np.argsort(np.argsort(places[rows], kind="stable"), kind="stable").astype(np.int64)
    k = min(k, len(rows))
    neighbours = np.empty((len(rows), k), dtype=np.int64)
    cosines = np.empty((len(rows), k), dtype=np.float32)
    for part in blocks(len(rows), block):
        similarity = vectors[part] @ vectors.T
        # Rounding or a twin could push an item off the top of its own list.
        similarity[np.arange(part.stop - part.start), np.arange(part.start, part.stop)] = np.inf
        best = best_columns(similarity, k, own_places).astype(np.int64)
        neighbours[part] = best
        cosines[part] = np.minimum(np.take_along_axis(similarity, best, axis=1), 1.0)
    return rows, rows[neighbours], cosines


def degree_normalised(graph: sparse.csr_array) -> sparse.csr_array:
    """D^-1/2 S D^-1/2 with the row sums of S >= 0 as the degrees on both sides; empty rows stay empty."""
    degrees = np.asarray(graph.sum(axis=1), dtype=np.float64)
    scale = np.divide(1.0, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
    return sparse.csr_array(sparse.diags_array(scale) @ graph @ sparse.diags_array(scale)).astype(np.float32)


def mixed_graph(graphs: Sequence[sparse.csr_array], weights: Sequence[float]) -> sparse.csr_array:
    """Weighted sum of item graphs whose rows sum to one or zero; the weights of the graphs that know an item
    are scaled to one.

    So an item that lacks a modality leans wholly on the others, and one that lacks all has an empty row.
    """
    known = sum(weight * (np.diff(graph.indptr) > 0) for graph, weight in zip(graphs, weights, strict=True))
    scale = np.divide(1.0, known, out=np.zeros(graphs[0].shape[0]), where=np.asarray(known) > 0)
    total = sum(
        (weight * graph for graph, weight in zip(graphs[1:], weights[1:], strict=True)),
        weights[0] * graphs[0],
    )
    return sparse.csr_array(sparse.diags_array(scale) @ total).astype(np.float32)


def csr_tensor(matrix: sparse.csr_array) -> Tensor:
    """The same matrix as a torch CSR tensor with int32 indices: half the index traffic of int64."""
    with warnings.catch_warnings():
        # Torch announces once per process that CSR is in beta; the products used here have tests.
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int32)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            size=matrix.shape,
            check_invariants=False,
        )


class _PropagateSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, adjacency: Tensor, nodes: Tensor, layers: int) -> Tensor:
        ctx.adjacency, ctx.layers = adjacency, layers
        return _layer_sum(adjacency, nodes, layers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        return None, _layer_sum(ctx.adjacency, gradients[0], ctx.layers), None


class _PropagateRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, adjacency: Tensor, nodes: Tensor, layers: int, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.adjacency, ctx.layers, ctx.rows, ctx.shape = adjacency, layers, rows, nodes.shape
        layer = nodes.detach().contiguous()
        start = layer[rows]
        total = start.clone()
        for _ in range(layers - 1):
            layer = _times(adjacency, layer)
            total += layer[rows]
        if layers:
            total += _rows_times(adjacency, layer, rows)
        return total, start

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        of_sum, of_start = gradients
        total = of_sum.new_zeros(ctx.shape)
        total[ctx.rows] = of_sum
        for _ in range(ctx.layers):
            total = _times(ctx.adjacency, total)
            total[ctx.rows] += of_sum
        total[ctx.rows] += of_start
        return None, total, None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graph: Tensor, transposed: Tensor, nodes: Tensor) -> Tensor:
        ctx.transposed = transposed
        return _times(graph, nodes.contiguous())

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, _times(cast("Any", ctx).transposed, gradients[0].contiguous())


def _layer_sum(adjacency: Tensor, nodes: Tensor, layers: int) -> Tensor:
    nodes = nodes.contiguous()
    total = nodes
    for _ in range(layers):
        total = _times(adjacency, total).add_(nodes)
    return total


def _rows_times(graph: Tensor, nodes: Tensor, rows: Tensor) -> Tensor:
    """Some rows of S X."""
    starts, lengths = graph.crow_indices()[rows], graph.crow_indices().diff()[rows]
    ends = lengths.cumsum(0)
    n_edges = int(ends[-1]) if len(ends) else 0
    if nodes.device.type != "cpu" or 2 * n_edges > len(graph.values()):
        return _times(graph, nodes)[rows]
    before = ends - lengths
    edges = torch.arange(n_edges) + torch.repeat_interleave(starts - before, lengths)
    bounds = torch.cat([before, ends[-1:]]).to(graph.col_indices().dtype)
    return F.embedding_bag(
        graph.col_indices()[edges],
        nodes,
        bounds,
        mode="sum",
        per_sample_weights=graph.values()[edges],
        include_last_offset=True,
    )


def _times(graph: Tensor, nodes: Tensor) -> Tensor:
    """S X of a CSR graph, without gradients.

    On a CPU each row is a weighted bag of rows of X: that kernel prefetches what it gathers, and took a third
    of the time of the sparse product (Baby-sized, D = 64).
    """
    if nodes.device.type != "cpu":
        return graph @ nodes
    return F.embedding_bag(
        graph.col_indices(),
        nodes.detach(),
        graph.crow_indices(),
        mode="sum",
        per_sample_weights=graph.values(),
        include_last_offset=True,
    )


def propagate_sum(adjacency: Tensor, nodes: Tensor, layers: int) -> Tensor:
    """Sum over l = 0..layers of A^l X, [N, D], for a **symmetric** CSR adjacency [N, N].

    By Horner's rule, one product per layer; the operator is its own adjoint, so the backward pass is the same
    call on the gradient and nothing is kept in between.
    """
    return cast("Tensor", _PropagateSum.apply(adjacency, nodes, layers))  # type: ignore[no-untyped-call]


def propagate_rows(adjacency: Tensor, nodes: Tensor, layers: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows [R, D] of `propagate_sum` that a batch needs, and the same rows of X itself.

    `rows` [R] must not repeat. The last layer is computed for them alone, and the only dense table beside the
    layers is the gradient, which holds that of both outputs.
    """
    return cast("tuple[Tensor, Tensor]", _PropagateRows.apply(adjacency, nodes, layers, rows))  # type: ignore[no-untyped-call]


def graph_product(graph: Tensor, transposed: Tensor, nodes: Tensor) -> Tensor:
    """S X for a CSR graph and its transpose, which the backward pass needs; gradients flow to X only."""
    return cast("Tensor", _Product.apply(graph, transposed, nodes))  # type: ignore[no-untyped-call]
