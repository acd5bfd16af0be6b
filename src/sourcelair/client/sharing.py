"""What ten thousand servers have only a few of is kept once: it is more than half of the memory that they take."""

from __future__ import annotations

from typing import TypeVar
from weakref import WeakValueDictionary

from pydantic import BaseModel

from sourcelair.client.servers import Spec

M = TypeVar("M", bound=BaseModel)

_all_fields: dict[type[BaseModel], set[str]] = {}


class Shared:
    """Equal parts of servers, each kept once for as long as anybody has it. Nobody may change one."""

    def __init__(self) -> None:
        self._parts: WeakValueDictionary[tuple[type[BaseModel], str], BaseModel] = WeakValueDictionary()
        """By their JSON."""

    def part(self, part: M) -> M:
        """Return the one that is kept of all that are equal to this."""
        kept = self._parts.setdefault((type(part), part.model_dump_json()), part)
        assert isinstance(kept, type(part))  # noqa: S101 - the key says so
        return kept

    def in_spec(self, spec: Spec) -> None:
        """Let a spec have the parts that are kept."""
        spec.sleep, spec.wake, spec.limits = self.part(spec.sleep), self.part(spec.wake), self.part(spec.limits)
        spec.readiness = self.part(spec.readiness)
        as_if_all_set(spec)


def as_if_all_set(model: BaseModel) -> None:
    """Make a model remember no more which of its fields were said, where nobody asks for that.

    Of a model with many fields this set is larger than all the rest; all of one kind have the same from now on.
    """
    kind = type(model)
    fields = _all_fields.get(kind)
    if fields is None:
        fields = _all_fields[kind] = set(kind.model_fields)
    object.__setattr__(model, "__pydantic_fields_set__", fields)
