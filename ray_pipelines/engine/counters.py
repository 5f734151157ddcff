"""What the steps of a run have cost: counted where the work is done, added up where the run is followed.

Counters travel from workers to the driver beside the rows (`COUNTERS_COLUMN`): a table's first row holds the counts of
that table. A block that Ray computes twice is written once, and so is counted once; what the lost attempt cost is not.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MAX_LEFT_OUT", "Counters"]


@dataclass
class Counters:
    """Counts and seconds, which add up; and the state of the batches, of which the latest holds.

    Attributes:
        num_forwards: Forwards, also those that failed.
        num_chunks: Chunks that went through one.
        cost: Cost of these chunks, in `cost_unit`.
        padded_cost: The same with padding.
        num_out_of_memory: Batches that did not fit.
        num_failed_batches: Batches of two or more that failed for another reason, and were searched for the guilty row.
        num_extra_forwards: Forwards that this search has cost.
        num_truncated: Rows that were cut at the model's or the job's maximum length.
        num_generated: Tokens that were generated.
        audio_s: Seconds of audio among the inputs.
        read_s, decode_s, preprocess_s, forward_s, postprocess_s, write_s: Seconds in each step; steps that overlap
            count both.
        worker_s: Seconds in which workers had rows.
        idle_s: Seconds in which loaded workers waited for rows.
        startup_s: Seconds in which workers loaded.
        begun_s: When a worker first had rows (Unix time); 0 where none had.
        num_graphs: Graphs that were compiled, where that was asked for.
        warmup_s: Seconds of forwards that compiled one; not in `forward_s`.
        cost_counts: How many chunks had a cost of less than 2 ** n, and not less than half of that; by n, as text.
        left_out: Name of a value that no column holds, as no sampled row had it: how many rows have one,
            of the `MAX_LEFT_OUT` most frequent names.
        cost_unit: What `cost` counts: tokens, pixels, samples, frames or values.
        budget: Padded cost of one forward at most; 0 for no limit.
        max_size: Chunks of one forward at most.
        dtype: Precision of the model, as it runs.
        device: Where it runs.
        cheaper: The setting that would make it faster there, from float32.
        parts: Of several tasks in one job: name of each: what of these counts is its own.
    """

    num_forwards: int = 0
    num_chunks: int = 0
    cost: int = 0
    padded_cost: int = 0
    num_out_of_memory: int = 0
    num_failed_batches: int = 0
    num_extra_forwards: int = 0
    num_truncated: int = 0
    num_generated: int = 0
    audio_s: float = 0.0
    read_s: float = 0.0
    decode_s: float = 0.0
    preprocess_s: float = 0.0
    forward_s: float = 0.0
    postprocess_s: float = 0.0
    write_s: float = 0.0
    worker_s: float = 0.0
    idle_s: float = 0.0
    startup_s: float = 0.0
    begun_s: float = 0.0
    num_graphs: int = 0
    warmup_s: float = 0.0
    cost_counts: dict[str, int] = dataclasses.field(default_factory=dict)
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    cost_unit: str = ""
    budget: int = 0
    max_size: int = 0
    dtype: str = ""
    device: str = ""
    cheaper: str = ""
    parts: dict[str, Counters] = dataclasses.field(default_factory=dict)

    @classmethod
    def sum(cls, counters: Iterable[Counters]) -> Counters:
        """All of `counters` together.

        >>> Counters.sum([Counters(cost=2, budget=512), Counters(cost=3)]).budget
        512
        """
        total = cls()
        for one in counters:
            total.add(one)
        return total

    @classmethod
    def of_parts(cls, shared: Counters, parts: Mapping[str, Counters]) -> Counters:
        """What several tasks of a worker have cost, each by its runner, and what it has cost to serve them all.

        >>> parts = {"a": Counters(cost=2, cost_unit="tokens"), "b": Counters(cost=3, cost_unit="pixels")}
        >>> total = Counters.of_parts(Counters(decode_s=1.0), parts)
        >>> total.cost, total.cost_unit, total.decode_s, total.parts["b"].cost
        (5, 'tokens and pixels', 1.0, 3)
        """
        total = cls.sum([*parts.values(), shared])
        for name in ("cost_unit", "dtype", "device"):
            found = dict.fromkeys(getattr(one, name) for one in parts.values())
            setattr(total, name, " and ".join(filter(None, found)))
        total.budget = total.max_size = 0
        for name, one in parts.items():
            total.parts[name] = own = one.copy()
            own.worker_s = own.preprocess_s + own.forward_s + own.postprocess_s
        return total

    @classmethod
    def from_json(cls, text: str) -> Counters:
        """What `to_json` was called on."""
        values = json.loads(text)
        values["parts"] = {name: cls(**own) for name, own in values.get("parts", {}).items()}
        return cls(**values)

    def add(self, other: Counters) -> None:
        """Adds what `other` counts, and takes over its state of the batches.

        >>> counters = Counters(worker_s=1.0)
        >>> counters.add(Counters(worker_s=1.0, begun_s=7.0))
        >>> counters.add(Counters(begun_s=5.0))
        >>> counters.worker_s, counters.begun_s
        (2.0, 5.0)
        """
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name == "parts":
                self.parts = {name: Counters.sum(self._own(name) + other._own(name)) for name in {**mine, **theirs}}
            elif isinstance(mine, dict):
                # New names come first: among equally frequent ones, they stay.
                both = {name: mine.get(name, 0) + theirs.get(name, 0) for name in {**theirs, **mine}}
                setattr(self, field.name, _most_frequent(both) if field.name == "left_out" else both)
            elif field.name == "begun_s":
                self.begun_s = min(mine or theirs, theirs or mine)
            elif field.name not in STATE:
                setattr(self, field.name, mine + theirs)
            elif theirs:
                setattr(self, field.name, theirs)

    def since(self, earlier: Counters) -> Counters:
        """What was counted after `earlier` was copied, with the state of now, and the beginning of the last work."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "parts"}
        less = {
            name: v if name in (*STATE, "begun_s") else _less(v, getattr(earlier, name)) for name, v in values.items()
        }
        parts = {name: own.since(earlier.parts.get(name, Counters())) for name, own in self.parts.items()}
        return Counters(**less, parts=parts)

    def _own(self, part: str) -> list[Counters]:
        return [self.parts[part]] if part in self.parts else []

    def of_forwards(self) -> Counters:
        """What concerns forwards alone.

        >>> Counters(num_chunks=2, decode_s=1.0).of_forwards().to_json()
        '{"num_chunks": 2}'
        """
        forwards = self.copy()
        for name in ("num_truncated", "read_s", "decode_s", "preprocess_s", "postprocess_s", "write_s"):
            setattr(forwards, name, 0)
        forwards.left_out = {}
        return forwards

    def note_costs(self, costs: Sequence[int]) -> None:
        """Counts chunks by their cost.

        >>> counters = Counters()
        >>> counters.note_costs([1, 5, 7])
        >>> counters.cost_counts
        {'1': 1, '3': 2}
        """
        for cost in costs:
            key = str(cost.bit_length())
            self.cost_counts[key] = self.cost_counts.get(key, 0) + 1

    def copy(self) -> Counters:
        """The counters as they are now."""
        parts = {name: own.copy() for name, own in self.parts.items()}
        return dataclasses.replace(self, cost_counts=dict(self.cost_counts), left_out=dict(self.left_out), parts=parts)

    def to_json(self) -> str:
        """The counters that are not zero, as one line of JSON."""
        return json.dumps(self._plain())

    def _plain(self) -> dict[str, Any]:
        values = {field.name: value for field in dataclasses.fields(self) if (value := getattr(self, field.name))}
        return {**values, **({"parts": {name: own._plain() for name, own in self.parts.items()}} if self.parts else {})}

    @property
    def step_seconds(self) -> Mapping[str, float]:
        """Step: seconds."""
        steps = ("read", "decode", "preprocess", "forward", "postprocess", "write")
        return {step: getattr(self, f"{step}_s") for step in steps}


MAX_LEFT_OUT = 100
"""Names that are kept; where keys are data there may be one of its own in each row."""
STATE = ("cost_unit", "budget", "max_size", "dtype", "device", "cheaper")


def _most_frequent(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent names of what was left out, in this order."""
    return dict(sorted(counts.items(), key=lambda item: -item[1])[:MAX_LEFT_OUT])


def _less(value: Any, earlier: Any) -> Any:
    if isinstance(value, dict):
        return {key: count - earlier.get(key, 0) for key, count in value.items() if count != earlier.get(key, 0)}
    return value - earlier
