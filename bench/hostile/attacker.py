"""`python -m bench.hostile.attacker NAME ADDRESS` runs one attack until SIGTERM.

It runs at low priority, because it stands for other machines.
"""

import asyncio
import json
import os
import resource
import signal
import sys

from bench.hostile import fleet_attacks
from bench.hostile.attacks import ATTACKS


async def _attack(name: str, address: str) -> None:
    attack = asyncio.ensure_future(ATTACKS[name].run(address))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, attack.cancel)
    if ATTACKS[name].is_prepared:
        prepared = asyncio.ensure_future(fleet_attacks.prepared.wait())
        await asyncio.wait([attack, prepared], return_when=asyncio.FIRST_COMPLETED)
    print("attacking", flush=True)
    await asyncio.wait([attack])
    print(json.dumps([fleet_attacks.posts, fleet_attacks.waits]), flush=True)
    if not attack.cancelled():
        attack.result()


if __name__ == "__main__":
    os.nice(19)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_attack(*sys.argv[1:]))
