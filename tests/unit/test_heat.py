"""The table of all settings: where it is shown, what its cells hold."""

import msgspec

from loadtune.render.heat import LEVELS, compute_heat
from tests.examples import faster_report, same_report


def test_rates_stand_at_their_setting_and_are_shaded_by_the_fastest():
    found = compute_heat(faster_report())
    assert found.num_workers == (0, 2, 4, 6, 8, 16, 24)
    assert [row.batch_size for row in found.rows] == [16, 32]
    own, larger = (row.cells for row in found.rows)
    assert [cell.text for cell in own] == ["41.2", "62.4", "78.1", "79.4", "79.2", "78.8", ""]
    assert own[0].marks == ("now",)
    assert own[2].marks == ("use",)
    assert max(cell.level for cell in (*own, *larger)) == LEVELS
    assert own[0].level == round(LEVELS * 41.2 / 82.4)


def test_settings_without_a_rate_say_what_became_of_them():
    larger = compute_heat(faster_report()).rows[1].cells
    assert [cell.text for cell in larger[-2:]] == ["out of memory", "skipped"]
    assert [cell.level for cell in larger[-2:]] == [0, 0]


def test_one_batch_size_makes_no_table():
    assert compute_heat(same_report()) is None
    assert compute_heat(msgspec.structs.replace(faster_report(), trials=())) is None
