"""Slots of deliveries, in total and per tenant."""

from jobs_grpc.webhooks.slots import Slots


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
