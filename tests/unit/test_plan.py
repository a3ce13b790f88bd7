"""The arithmetic of ``tests/benchmarks/plan.py``; what things cost is measured elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.plan import GIB, Costs, Load, limits, plan

COSTS = Costs(
    webhook_cpu=3.0,
    status_cpu=1.0,
    report_post_cpu=1.5,
    statuses=3,
    reports=2,
    turn_cpu=14.0,
    read_cpu=0.5,
    send_cpu=0.5,
    report_cpu=1.0,
    broker_cpu=8.0,
    worker_kib=GIB / 4,
    worker_session_kib=10.0,
    broker_session_kib=50.0,
    redis_user_kib=10.0,
    redis_message_kib=1.0,
    redis_sent_kib=0.5,
    redis_calls=7,
    redis_call_cpu=0.1,
)


def test_a_busy_hour_is_added_up():
    load = Load(
        users=360_000, messages=10, busiest_hour=0.1, seconds_between=30.0, idle_timeout=1730.0, llm_seconds=2.0,
        threads=32, full=0.7, broker_sessions=20_000, redis_gib=64.0, number_per_second=80.0,
    )  # fmt: skip
    needed = plan(load, COSTS)
    assert needed.messages_per_second == pytest.approx(100)  # ten users a second begin
    assert needed.live_sessions == 20_000  # each for 9 × 30 s and the idle timeout
    assert needed.web_cores == 1  # 100 × 7 ms, at most 70 % of a core
    assert needed.worker_cores == 2
    assert needed.workers == 9  # 200 turns under way, at most 70 % of 32 threads
    assert needed.worker_memory == pytest.approx(9 / 4 + 20_000 * 10 / GIB)
    assert needed.sender_cores == 1
    assert needed.brokers == 1
    assert needed.broker_cores == 2
    assert needed.broker_memory == pytest.approx(20_000 * 50 / GIB)
    assert needed.whatsapp_numbers == 2


@pytest.mark.parametrize("messages", [1, 10, 50])
def test_one_is_enough_up_to_its_limit_and_not_beyond(messages):
    breaks = limits(COSTS, messages)
    assert [users for _, users in breaks] == sorted(users for _, users in breaks)
    fields = {
        "a worker": "workers",
        "a WhatsApp": "whatsapp_numbers",
        "a broker": "brokers",
        "a Redis": "redis_servers",
        "a core for web": "web_cores",
        "a core for senders": "sender_cores",
    }
    for what, users in breaks:
        field = next(field for begins, field in fields.items() if what.startswith(begins))
        assert getattr(plan(Load(users - users // 50, messages), COSTS), field) == 1, what
        assert getattr(plan(Load(users + users // 50, messages), COSTS), field) == 2, what


@pytest.mark.parametrize("page", ["docs/scale.md", "docs/pt-BR/scale.md"])
def test_the_manual_says_what_the_plan_says(page):
    """In the order of its rows; memory is rounded there."""
    fields = [
        "messages_per_second", "live_sessions", "web_cores", "workers", "worker_cores", "worker_memory",
        "sender_cores", "brokers", "broker_cores", "broker_memory", "redis_memory", "whatsapp_numbers",
    ]  # fmt: skip
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    table = text.partition("tests.benchmarks.plan`, ")[2].split("\n\n")[1]
    rows = [[cell.strip() for cell in row.strip("|").split("|")][1:] for row in table.splitlines()[2:]]
    point, comma = (".", ",") if page == "docs/scale.md" else (",", ".")
    for column, users in enumerate((10_000, 1_000_000, 100_000_000)):
        needed = plan(Load(users=users), Costs())
        said = [float(row[column].replace(comma, "").replace(point, ".")) for row in rows]
        for field, number in zip(fields, said, strict=True):
            rounded = 0.15 if field == "messages_per_second" or field.endswith("memory") else 0
            assert number == pytest.approx(getattr(needed, field), rel=rounded), field
