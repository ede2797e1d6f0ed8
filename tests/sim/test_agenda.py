from __future__ import annotations

from llmgate.sim.agenda import ENGINE, Agenda


def test_the_earliest_comes_first_engines_before_others_and_then_in_order_of_entry() -> None:
    agenda, done = Agenda(), list[str]()
    for at, name in ((2.0, "late"), (1.0, "first"), (1.0, "second")):
        agenda.enter(at, lambda _, name=name: done.append(name))  # type: ignore[misc]
    agenda.enter(1.0, lambda _: done.append("engine"), ENGINE)
    while agenda:
        at, action = agenda.next()
        action(at)
    assert done == ["engine", "first", "second", "late"]
