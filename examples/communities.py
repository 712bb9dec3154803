"""Who matters in a network, and which groups there are: three small networks of real people.

Looks at the friendships in a karate club that later split in two, at the characters of a novel, and
at families of Renaissance Florence, all of which are inside the networkx package.  For each one it
prints who is most central, in four meanings of the word; and how sure one may be of that, as the
share of networks with some ties left out at random in which the same person still comes first.
Last it divides each network into groups, by taking away the tie that most of the shortest paths
use, again and again.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import networkx as nx

SEED = 20
LEFT_OUT = 0.15
"""Share of the ties that are left out at a time."""

NETWORKS: dict[str, Callable[[], nx.Graph]] = {
    "karate club": nx.karate_club_graph,
    "Les Misérables": nx.les_miserables_graph,
    "families of Florence": nx.florentine_families_graph,
}
MEANINGS: dict[str, Callable[..., Mapping[Any, float]]] = {
    "knows many": nx.degree_centrality,
    "near everybody": nx.closeness_centrality,
    "between others": nx.betweenness_centrality,
    "carries flow": nx.current_flow_betweenness_centrality,
}

Item = TypeVar("Item", bound=Hashable)


def unweighted(graph: nx.Graph) -> nx.Graph:
    """``graph`` with nothing but names and ties."""
    bare = nx.Graph()
    bare.add_nodes_from(graph)
    bare.add_edges_from(graph.edges())
    return bare


def thinned(graph: nx.Graph, number: int) -> nx.Graph:
    """``graph`` without some ties, still in one piece; the same ones for the same ``number``."""
    chance = random.Random(f"{SEED} {number}")
    thin = graph.copy()
    ties = sorted(thin.edges(), key=str)
    chance.shuffle(ties)
    for tie in ties[: round(LEFT_OUT * len(ties))]:
        thin.remove_edge(*tie)
        if not nx.has_path(thin, *tie):
            thin.add_edge(*tie)
    return thin


def first(scores: Mapping[Item, float]) -> Item:
    """Who, or which tie, has the highest score; the first by name, if several have."""
    return min(scores, key=lambda node: (-round(scores[node], 9), str(node)))


def groups(graph: nx.Graph, count: int) -> list[list[Hashable]]:
    """``graph`` in at least ``count`` pieces, by the method of Girvan and Newman; who knows most comes first."""
    rest = graph.copy()
    while nx.number_connected_components(rest) < count:
        rest.remove_edge(*sorted(first(nx.edge_betweenness_centrality(rest)), key=str))
    pieces = [sorted(p, key=lambda node: (-graph.degree(node), str(node))) for p in nx.connected_components(rest)]
    return sorted(pieces, key=lambda piece: (-len(piece), str(piece)))


def table(rows: Iterable[tuple[str, ...]]) -> None:
    """Print ``rows`` in columns, the first one as their heading."""
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for number, row in enumerate(cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)
        if number == 0:
            print("  ".join("-" * width for width in widths), flush=True)


def main() -> None:
    """Read the command line, do the work, print the tables."""
    parser = argparse.ArgumentParser(
        description="Who matters in a network, and which groups there are: three small networks of real people.",
        epilog=f"The networks: {', '.join(NETWORKS)}.",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=50,
        metavar="N",
        help="how many times to leave out ties at random (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=4,
        metavar="N",
        help="how many networks to look at at a time (default: %(default)s)",
    )
    given = parser.parse_args()
    if given.repeats < 1 or given.threads < 1:
        parser.error("--repeats and --threads must be at least 1")

    rows = [("network", "people", "ties", "meaning of central", "first", "score", "still first")]
    with ThreadPoolExecutor(given.threads) as pool:
        graphs = {name: unweighted(make()) for name, make in NETWORKS.items()}
        divided = {name: pool.submit(groups, graph, 3) for name, graph in graphs.items()}
        for name, graph in graphs.items():
            thin = [thinned(graph, number) for number in range(given.repeats)]
            people, ties = str(graph.number_of_nodes()), str(graph.number_of_edges())
            for meaning, centrality in MEANINGS.items():
                scores = centrality(graph)
                winner = first(scores)
                again = Counter(map(first, pool.map(centrality, thin)))
                share = f"{again[winner] / given.repeats:4.0%}"
                rows.append((name, people, ties, meaning, str(winner), f"{scores[winner]:.3f}", share))
                name = people = ties = ""
        table(rows)
        print()
        for name, future in divided.items():
            print(f"{name}:")
            for number, group in enumerate(future.result(), 1):
                members = ", ".join(map(str, group[:6])) + (", ..." if len(group) > 6 else "")
                print(f"  group {number}, {len(group):2} people: {members}", flush=True)


if __name__ == "__main__":
    main()
