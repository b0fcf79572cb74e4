"""What travels between devices, read from programs written by hand; of real ones see tests/multi."""

import pytest

from experiments import communication
from experiments.communication import Traffic

PROGRAM = """HloModule jit_chunk, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (arg: (s32[], f32[16])) -> (s32[], f32[16]) {
  %r.1 = f32[16]{0} all-reduce(%x), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add, metadata={op_name="a"}
  %g.1 = (bf16[4,2]{1,0}, pred[8]{0}) all-gather(%y, %z), replica_groups=mesh['a'=4,'b'=2] {'b'}, dimensions={0}
  ROOT %t = (s32[], f32[16]) tuple(%i, %r.1)
}

%condition (arg: (s32[], f32[16])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n)
}

%branch.1 (x: f32[3]) -> f32[3] {
  ROOT %p = f32[3]{0} collective-permute(%x), source_target_pairs={{0,1},{1,2},{2,0}}
}

%branch.2 (x: f32[3]) -> f32[3] {
  ROOT %same = f32[3]{0} copy(%x)
}

%later (x: f32[4]) -> f32[4] {
  %s.1 = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), replica_groups={}, dimensions={0}
  %d.1 = f32[8]{0} all-gather-done(%s.1)
  %s.2 = (f32[5], f32[5], u32[], u32[]) collective-permute-start(%y), source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
  ROOT %s.3 = f32[4]{0} all-reduce-start(%x), replica_groups={{0,1}}, to_apply=%add
}

ENTRY %main (x: f32[16]) -> f32[16] {
  %l = (s32[], f32[16]) while(%s), body=%body, condition=%condition, backend_config={"known_trip_count":{"n":"5"}}
  %more = f32[4]{0} fusion(%x), kind=kCustom, calls=%later
  %choice = f32[3]{0} conditional(%i, %a, %b), branch_computations={%branch.1, %branch.2}
  ROOT %rs = f64[2]{0} reduce-scatter(%w), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add
}
"""


def test_collectives_are_counted_with_their_loops_groups_and_bytes():
    assert communication.collectives(PROGRAM) == [
        # 8 numbers of 2 bytes and 8 of 1, five times; of two devices each sends a half
        Traffic("all-gather", 2, 5, 5 * 24.0, 5 * 24.0 * 1 / 2),
        # 8 numbers of 4 bytes, of all eight devices; what began it is no part of it
        Traffic("all-gather", 8, 1, 32.0, 32.0 * 7 / 8),
        Traffic("all-reduce", 2, 1, 16.0, 16.0 * 2 * 1 / 2),
        # 16 numbers of 4 bytes, five times; round a ring of four each sends three quarters twice
        Traffic("all-reduce", 4, 5, 5 * 64.0, 5 * 64.0 * 2 * 3 / 4),
        Traffic("collective-permute", 2, 1, 20.0, 20.0),  # two rings of two
        Traffic("collective-permute", 3, 1, 12.0, 12.0),
        # what is summed is four times what each keeps
        Traffic("reduce-scatter", 4, 1, 4 * 16.0, 4 * 16.0 * 3 / 4),
    ]


def test_a_table_has_a_line_for_each_kind_and_the_sum():
    lines = communication.table([Traffic("all-reduce", 4, 2, 2**21, 3 * 2**20)]).splitlines()
    assert lines[0].split() == ["collective", "devices", "times", "MiB", "MiB", "sent", "by", "each"]
    assert lines[1].split() == ["all-reduce", "4", "2", "2.000", "3.000"]
    assert lines[2].split() == ["in", "all", "3.000"]


@pytest.mark.parametrize(
    ("shape", "size"), [("f32[]", 4), ("pred[3]{0}", 3), ("bf16[2,3]", 12), ("(u8[5], c64[2])", 21), ("s32[0]", 0)]
)
def test_bytes_of_shapes(shape, size):
    assert communication._bytes(shape) == size
