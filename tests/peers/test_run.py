from pathlib import Path

from peers.run import Case, Listed, judge, read, unused

STOCK, OURS, OWN = Case("GPTNeo_stock", "test_a"), Case("GPTNeo_moe_k2", "test_a"), Case("Brainformer_hash", "test_a")


def test_what_passes_with_stock_has_to_pass_or_be_skipped_with_ours():
    assert judge({STOCK: "passed", OURS: "passed"}, []) == []
    assert judge({STOCK: "skipped", OURS: "passed"}, []) == []
    assert judge({STOCK: "failed", OURS: "failed"}, []) == []
    for stock in ("passed", "skipped"):
        assert judge({STOCK: stock, OURS: "failed"}, []) == [f"RED {OURS} fails, and it is not in expected.yaml"]


def test_what_has_no_stock_class_has_to_pass():
    assert judge({OWN: "failed"}, []) == [f"RED {OWN} fails, and it is not in expected.yaml"]


def test_a_listed_test_has_to_fail():
    listed = [Listed("test_a", ["GPTNeo_*"], "meant")]
    assert judge({STOCK: "passed", OURS: "failed"}, [Listed("test_a", ["GPTNeo_moe*"], "meant")]) == []
    assert judge({OURS: "passed"}, listed) == [f"RED {OURS} passed: take it out of expected.yaml"]
    assert unused({OWN: "failed"}, listed) == ["RED expected.yaml: test_a: there is no such test"]


def test_the_list_can_be_read():
    assert all(entry.reason for entry in read(Path(__file__).with_name("expected.yaml")))
