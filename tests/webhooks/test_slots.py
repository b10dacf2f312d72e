"""Slots of deliveries, in total and per tenant."""

from jobs_grpc.webhooks.slots import Slot, Slots


def test_tenant_gets_at_most_its_share() -> None:
    slots = Slots(5, 2)
    assert [slots.try_take("a") for _ in range(3)] == [True, True, False]
    assert slots.full_tenants() == ["a"]
    assert slots.free == 3
    slots.release("a")
    assert slots.full_tenants() == []
    assert slots.try_take("a")


def test_all_tenants_together_get_the_capacity() -> None:
    slots = Slots(3, 2)
    assert [slots.try_take(tenant) for tenant in "aabbb"] == [True, True, True, False, False]
    assert slots.free == 0
    slots.release("b")
    assert slots.try_take("c")


def test_slot_moves_only_to_a_free_one() -> None:
    first, second = Slots(2, 2), Slots(1, 1)
    slots = [Slot(first, "a") for _ in range(2) if first.try_take("a")]
    assert [slot.move(second) for slot in slots] == [True, False]
    assert (first.free, second.free) == (1, 0)
    for slot in slots:
        slot.release()
    assert (first.free, second.free) == (2, 1)
