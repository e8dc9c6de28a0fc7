"""What a controller says of its model."""

import json

from tests.nncf.support import FILTERS, Net, created


def test_statistics_are_measured():
    controller, _ = created(FILTERS)
    controller.compression_rate = 0.5
    found = controller.statistics()
    assert found.achieved_rate == 0.5
    assert found.after.parameters == sum(each.numel() for each in controller.strip().parameters())
    assert found.before.parameters == sum(each.numel() for each in Net().parameters())
    assert 0 < found.macs_removed < 1
    assert "requested 0.5, achieved 0.5" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["stage"] == "FULLY_COMPRESSED"
