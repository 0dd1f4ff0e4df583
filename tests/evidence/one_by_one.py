"""What can follow a state, worked out for it alone: the oracle for sets of start records.

`evidence.model.explore` follows a device with all of its start records at once. Here the
same events are applied to one record, in the order in which they happen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from evidence.model.boot import BEHAVIOURS, Behaviour, counting, initramfs, possible
from evidence.model.changes import unpowered
from evidence.model.device import Device, Wish
from evidence.model.explore import Loaded, Model, damaged
from recovery.slots import SLOTS

Pair = tuple[int, Wish]


def successors(model: Model, number: int, wish: Wish) -> set[Pair]:
    """Every state that one event can lead to."""
    board, device = model.board, model.devices[number]
    found: set[Pair] = set()
    for rotten in damaged(board, device, model.limits):
        found.update(_both(model, model.number(rotten), wish))
    if device.damage and wish != Wish():
        found.add((model.number(replace(device, damage=device.damage - 1)), Wish()))
    load = model.load(number, model.wishes.choice(wish))
    what = load.started.what
    for cut in load.cuts:
        found.add((cut, unpowered(board, wish)))
    if what == "nothing":
        if load.started.loads:
            wish = replace(wish, loads=min(wish.loads + 1, board.most_loads))
        found.update(_both(model, load.off, wish))
    elif what == "rescue":
        asked, overdue = model.wishes.choice(wish)
        if board.kind in ("grub", "u-boot") and asked:
            wish = replace(wish, asked=wish.asked + 1)
            found.add((load.off, wish))
        if board.kind == "systemd-boot" and overdue:
            found.add((load.off, replace(wish, one_shot=True)))
            found.add((load.off, replace(wish, one_shot=True, loads=0)))
            found.add((load.off, replace(wish, one_shot=False, loads=0)))
        elif board.kind == "systemd-boot":
            found.add((load.off, replace(wish, loads=wish.loads + 1)))
        for network in (True, False):
            for after, written in model.visit(load.off, wish, network).passed:
                found.add((after, model.wishes.all[written]))
    else:
        for behaviour in BEHAVIOURS:
            found.update(_slot(model, number, load, wish, behaviour))
    return found


def _both(model: Model, number: int, wish: Wish) -> Iterator[Pair]:
    """Whether the power stays or not."""
    yield number, wish
    yield number, unpowered(model.board, wish)


def _slot(
    model: Model, number: int, load: Loaded, wish: Wish, untouched: Behaviour
) -> Iterator[Pair]:
    """One start of a slot, whose image behaves like that while it is undamaged."""
    board, device, started = model.board, model.devices[number], load.started
    slot = started.what
    assert slot in SLOTS
    behaviour = possible(device, slot, untouched=untouched)
    if started.loads:
        wish = replace(wish, loads=min(wish.loads + 1, board.most_loads))
        yield load.off, unpowered(board, wish)
    if behaviour == "kernel":
        yield from _both(model, load.off, wish)
        return
    counted = wish
    if board.rescue:
        written, asks = initramfs(board, wish, slot, behaviour)
        for item in written:
            yield load.off, unpowered(board, item)
        counted = written[-1]
        if asks:
            yield from _both(model, load.rebooted, counted)
            return
        if behaviour not in ("mount", "early"):
            counted = replace(counted, loads=0)
    if _asks_for_state(model, device, load, behaviour) and not (counted.rescued or counted.asked):
        asked = replace(counted, rescue=True)
        yield load.off, unpowered(board, asked)
        yield from _both(model, load.rebooted, asked)
        return
    ended = model.boot(number, behaviour)
    noted = counted.healthy(volatile=not device.state)
    for after, healthy in (*ended.cuts, ended.reset):
        yield after, unpowered(board, noted if healthy else counted)
    last, healthy = ended.last
    then = noted if healthy else counted
    yield from _both(model, last, then)
    for after in ended.after:
        yield after, unpowered(board, noted)
    if ended.ending == "up" and model.limits.by_hand and board.rescue:
        for action in (False, True):
            asked = replace(then, rescue=True, person=True, action=action, asked=0)
            yield last, asked
            if board.kind in ("systemd-boot", "tryboot"):
                yield from _both(model, last, replace(asked, one_shot=True))


def _asks_for_state(model: Model, device: Device, load: Loaded, behaviour: Behaviour) -> bool:
    """ask_for_rescue in recovery.early, as far as it depends on the device."""
    if device.state or not model.board.rescue or behaviour in ("mount", "early"):
        return False
    slot = load.started.what
    assert slot in SLOTS
    return not counting(model.board, load.started.device, slot, load.started.is_try)
