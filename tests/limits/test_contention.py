"""Tenants compete when their calls arrive within a second."""

import asyncio

import pytest

from jobs_grpc.limits import contention
from jobs_grpc.limits.contention import Contention


@pytest.mark.parametrize(("callers", "competes"), [("aa", False), ("ab", True)])
async def test_tenants_compete_when_several_have_called(callers: str, competes: bool) -> None:
    calls = Contention()

    for tenant in callers:
        calls.note_call(tenant)

    assert calls.active() == competes


async def test_tenants_do_not_compete_when_their_calls_are_a_second_apart() -> None:
    calls = Contention()
    calls.note_call("a")
    calls._last_call -= 1.0

    calls.note_call("b")

    assert not calls.active()


async def test_contention_ends_when_only_one_tenant_calls() -> None:
    calls = Contention()
    calls.note_call("a")
    calls.note_call("b")
    calls._ends -= 1.0

    calls.note_call("b")

    assert not calls.active()


async def test_refusal_waits_only_while_tenants_compete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "_MIN_REFUSAL_DELAY_SECONDS", 3600.0)
    monkeypatch.setattr(contention, "_MAX_REFUSAL_DELAY_SECONDS", 3600.0)
    calls = Contention()
    calls.note_call("a")
    async with asyncio.timeout(10):
        await calls.delay_refusal()

    calls.note_call("b")
    refusal = asyncio.create_task(calls.delay_refusal())
    await asyncio.sleep(0)

    assert not refusal.done()
    refusal.cancel()
    await asyncio.wait({refusal})
    assert calls._delayed_refusals == 0
