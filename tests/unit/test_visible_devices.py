"""Does CUDA_VISIBLE_DEVICES mean here what it means to CUDA?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.monitor.visible_devices import UNKNOWN_ORDER, Visible, find_visible, mig_instance
from loadtune.records.resources import GpuInfo

A, B, C = (f"GPU-{digit * 8}-0000-1111-2222-333344445555" for digit in "abc")
ALIKE = tuple(GpuInfo(uuid=uuid, name="NVIDIA H100") for uuid in (A, B, C))
MIG = tuple(f"MIG-{digit * 8}-0000-1111-2222-333344445555" for digit in "12")
DIVIDED = (GpuInfo(uuid=A, name="NVIDIA H100", mig_uuids=MIG), GpuInfo(uuid=B, name="NVIDIA H100"))
MIXED = (GpuInfo(uuid=A, name="T400"), GpuInfo(uuid=B, name="NVIDIA H100"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, (A, B, C)),
        ("", ()),
        ("0", (A,)),
        ("2,0", (C, A)),
        (" 1 , 2", (B, C)),
        ("1gpu2,2ampere", (B, C)),  # as strtoul reads it
        ("+1", (B,)),
        ("-1", ()),
        ("0,-1,2", (A,)),
        ("1,7,0", (B,)),
        ("1,none,0", (B,)),
        ("1,1", ()),
        ("NoDevFiles", ()),
        (A, (A,)),
        ("GPU-b", (B,)),
        ("GPU-c,GPU-a", (C, A)),
        ("GPU-", ()),  # not unique
        ("GPU-f", ()),
        ("GPU-a,GPU-f,GPU-b", (A,)),
        ("GPU-a,0", (A,)),
        ("0,GPU-b", (A,)),
        ("GPU-a,GPU-aaaa", ()),
    ],
)
def test_every_form_of_the_variable(value, shown):
    """Numbers, beginnings of UUIDs, order, what ends the list and what empties it."""
    assert find_visible(value, None, ALIKE) == Visible(shown)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (MIG[1], (MIG[1],)),
        ("MIG-2", (MIG[1],)),
        ("MIG-", ()),
        (f"{MIG[1]},{MIG[0]}", (MIG[1],)),
        (f"MIG-{A}/1/0", (f"MIG-{A}/1/0",)),
        ("0", (MIG[0],)),
        ("1,0", (B, MIG[0])),
        (None, (MIG[0], B)),
    ],
)
def test_of_mig_instances_one_is_shown(value, shown):
    """The first that is named; of a divided GPU its first instance."""
    assert find_visible(value, None, DIVIDED) == Visible(shown)


def test_numbers_among_different_models_need_the_bus_order():
    """Else CUDA's own order, by speed, decides, and that is not known here. UUIDs need no order."""
    assert find_visible("1", None, MIXED) == find_visible(None, "FASTEST_FIRST", MIXED) == Visible((), UNKNOWN_ORDER)
    assert find_visible("1,0", "PCI_BUS_ID", MIXED) == Visible((B, A))
    assert find_visible("GPU-b", None, MIXED) == Visible((B,))
    assert find_visible("", None, MIXED) == Visible(())


def test_the_instance_that_the_variable_names():
    """The first entry, and only where it is one."""
    assert mig_instance(f"{MIG[0]},{MIG[1]}") == MIG[0]
    assert mig_instance("0") is None
    assert mig_instance(None) is None


@given(st.one_of(st.none(), st.text(alphabet="01234,-+ GPUMIabc/", max_size=24)))
def test_nothing_is_shown_twice_nor_made_up(value):
    """Whatever the variable holds."""
    shown = find_visible(value, None, ALIKE).uuids
    assert len(set(shown)) == len(shown)
    assert all(uuid in {A, B, C} or uuid.startswith("MIG-GPU-") for uuid in shown)
