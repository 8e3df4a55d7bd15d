from bench.scale import STAGES, table


def test_the_table_has_time_per_clip_its_ratio_and_the_highest_memory():
    def ledger(seconds: float) -> dict[str, dict[str, float]]:
        usage = {"seconds": seconds, "peak_memory_mb": 100.0, "peak_worker_memory_mb": 30.0}
        return {name: usage for name in STAGES} | {"simulate": usage}

    few, many = ledger(10.0), ledger(50.0)
    many["score"] = {"seconds": 50.0, "peak_memory_mb": 700.0}
    head, _, first, *rest = table([100, 1000], [few, many]).splitlines()
    assert head.endswith("| time per clip, 1000 / 100 |")
    assert first == "| extract_frames | 10.0 | 100.00 | 100 | 50.0 | 50.00 | 100 | 0.50 |"
    assert len(rest) == len(STAGES)
    assert rest[-1].startswith("| all | 80.0 | 800.00 | 100 | 400.0 | 400.00 | 700 |")
