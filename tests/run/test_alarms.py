"""What alarms.jsonl and starts.jsonl say is read whatever has become of them."""

import json

from thetahat.core.plain import as_json
from thetahat.diagnosis.alarms.alarm import Alarm, Suspect
from thetahat.run.folder.starts import ENVIRONMENT, STARTS, note_start, read_starts
from thetahat.run.log.alarms import ALARMS, read_alarms


def test_alarms_are_read_as_they_were_written_and_foreign_lines_are_told(tmp_path):
    suspect = Suspect("r1", "web", 20, 9.5, "text \u202e")
    first = Alarm("bad-batch", "warning", 7, "what", {"excess": 3.5}, suspects=(suspect,))
    second = Alarm(
        "non-finite", "critical", 9, "what", {"sick": float("nan")}, "head", ("dtype=float32",), action="stop"
    )
    lines = [json.dumps(as_json(one.to_dict())) for one in (second, first, first)]
    foreign = ['{"name": "of-another-program", "step": 1}', '{"torn', "[1]", ""]
    (tmp_path / ALARMS).write_text("\n".join([*lines[:1], *foreign, *lines[1:]]) + '\n{"name": "loss-sp')
    found, notes = read_alarms(tmp_path)
    assert found[0] == first
    assert str(found[1]) == str(second)
    assert len(found) == 2
    assert notes == ["alarms.jsonl: lines 2, 3, 4 and 2 more cannot be read, and left out"]
    assert read_alarms(tmp_path / "nowhere") == ([], [])


def test_a_start_says_what_has_changed_since_the_run_began(tmp_path):
    (tmp_path / ENVIRONMENT).write_text(json.dumps({"packages": {"torch": "1", "numpy": "2"}, "cores": 4}))
    note_start(tmp_path, 0, None)
    with (tmp_path / STARTS).open("ab") as file:
        file.write(b'{"torn')  # by a crash
    note_start(tmp_path, 5, {"packages": {"torch": "1.1", "numpy": "2"}, "cores": 4})
    found = read_starts(tmp_path)
    assert [(one.step, one.changed) for one in found] == [(0, {}), (5, {"packages.torch": "1.1"})]
    assert found[0].at.endswith("Z")
