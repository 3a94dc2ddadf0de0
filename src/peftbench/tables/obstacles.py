"""Why a number of ours and a paper's are not of the same experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from peftbench.tables.cells import TableCell
from peftbench.tables.estimates import Group
from peftbench.tables.references import Reference


def obstacles(
    cell: TableCell, paper: Reference, backbones: Mapping[str, str], data_notes: Callable[[Group], Sequence[str]]
) -> list[str]:
    """Why our number and the paper's are not of the same experiment; empty if nothing stands between them.

    Args:
        backbones: the paper's name of a backbone -> ours.
        data_notes: what the records of a group of runs say of splits that are not the official ones.
    """
    spec, found = cell.spec, []
    ours, theirs = str(spec.run.get("model", "")), backbones.get(paper.model, paper.model)
    if theirs != ours:
        found.append(f"different backbone (paper: {paper.model or 'not named in the source'}; ours: {ours})")
    if "protocol" in spec.changed:
        found.append(f"other protocol (ours: {spec.run['protocol']})")
    others = [f"{key}={value}" for key, value in spec.changed.items() if key not in ("model", "protocol")]
    if others:
        found.append(f"other settings ({', '.join(others)})")
    found += [f"incomplete data ({note})" for g in cell.groups for note in data_notes(g)]
    if spec.caveat:
        found.append(spec.caveat)
    if cell.done < spec.own_runs or not cell.complete:
        found.append(f"fewer draws ({cell.done} of {max(spec.own_runs, cell.asked)} runs)")
    elif cell.summary.get("se") and cell.summary.get("sd") is None:
        found.append("one run (its spread over seeds is not known)")
    return list(dict.fromkeys(found))
