"""A sender in a process of its own, for tests that kill it: `python sender_process.py DATABASE FOLDER SEED`.

It follows the journal that SEED makes and delivers into FOLDER, one file a message; prints `done` when all is delivered.
"""

import asyncio
import os
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from accounting.support_journal import PRODUCER, A, D, G, Journal, P, S
from skyfed.accounting import sender as sender_module
from skyfed.accounting import tables
from skyfed.accounting.sender import Sender
from skyfed.core.clock import FixedClock
from skyfed.core.sql import Database

EVENTS_AT_ONCE = 7
# Before every event: the closing of months by the clock plays no part here.
BEFORE = datetime(2026, 9, 1, tzinfo=UTC)


def journal(seed: int, machines: int = 40) -> Journal:
    """A journal of some months; the same for the same seed."""
    rng = random.Random(seed)
    made = Journal()
    steps = []
    for number in range(machines):
        at = datetime(2026, 10, 1, tzinfo=UTC) + timedelta(seconds=rng.uniform(0, 40 * 86_400))
        states = [P, A, *rng.choices([A, S], k=rng.randint(0, 4)), *([D, G] if rng.random() < 0.7 else [])]
        for state in states:
            steps.append((at, f"vm-{number}", state))
            at += timedelta(seconds=rng.uniform(1, 10 * 86_400))
    for at, vm, state in sorted(steps, key=lambda step: step[0]):
        made.add(vm, at, state)
    return made


def deliver_into(folder: Path):
    """A delivery that is durable when it returns, as the repository's answer is."""

    def send(body: bytes, empaid: str) -> None:
        temporary = folder / f".{os.getpid()}"
        with temporary.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / empaid.replace("/", "-"))

    return send


async def run(database: Path, folder: Path, seed: int) -> None:
    sender_module.BATCH = EVENTS_AT_ONCE  # many transactions, so that a kill finds one
    source = journal(seed)
    db = Database(
        f"sqlite:///{database}", name="accounting", metadata=tables.metadata, migrations="skyfed.accounting.migrations"
    )
    await asyncio.to_thread(db.open)
    sender = Sender(
        db, source, site="ALPHA", producer=PRODUCER, clock=FixedClock(BEFORE), send=deliver_into(folder), records_per_message=5
    )  # fmt: skip
    delivery = asyncio.create_task(sender.outbox.run())
    print("running", flush=True)
    await sender.extract()
    while (await asyncio.to_thread(sender.status)).waiting:
        await asyncio.sleep(0.01)
    print("done", flush=True)
    delivery.cancel()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
