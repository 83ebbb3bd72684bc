import jax
import jax.numpy as jnp
import pytest

from crate_jax.training import hlo


def one(line, slice_devices=None):
  text = f"ENTRY %main (x: f32[8]) -> f32[8] {{\n  {line}\n}}\n"
  (found,) = hlo.Program(text, slice_devices=slice_devices).collectives()
  return found


@pytest.mark.parametrize(
  ("line", "kind", "sent"),
  [
    # A ring of n devices: n - 1 of n parts of an array go once round, or twice to be summed.
    ("%a = f32[8,4]{1,0} all-gather(%x), replica_groups={{0,1,2,3}}, dimensions={0}",
     "all-gather", 8 * 4 * 4 * 3 / 4),
    ("%a = (bf16[4]{0}, bf16[16]{0}) all-gather-start(%x), replica_groups=[2,4]<=[8]",
     "all-gather", 16 * 2 * 3 / 4),
    ("%a = ((f32[4]{0}, f32[8]{0}), (f32[16]{0:T(8,128)}, f32[32]{0})) all-gather-start(%x, %y), "
     "replica_groups=[1,4]<=[4]", "all-gather", (16 + 32) * 4 * 3 / 4),
    ("%a = (f32[16]{0}, f32[4]{0}) reduce-scatter-start(%x), replica_groups={{0,1,2,3}}",
     "reduce-scatter", 3 * 4 * 4),
    ("%a = f32[6]{0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add",
     "all-reduce", 2 * 6 * 4 / 2),
    ("%a = (f32[6]{0}, /*index=1*/s8[8]{0:T(8,128)(2,1)}) all-reduce(%x), replica_groups={{0,1}}",
     "all-reduce", 2 * (24 + 8) / 2),
    ("%a = f32[2]{0} reduce-scatter(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}",
     "reduce-scatter", 3 * 2 * 4),
    ("%a = f32[8]{0} all-to-all(%x), replica_groups=mesh['a'=8] {'a':(1)2}", "all-to-all", 16),
    ("%a = pred[8]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}",
     "collective-permute", 8),
  ],
)  # fmt: skip
def test_bytes_sent(line, kind, sent):
  found = one(line)
  assert (found.kind, found.sent_bytes, found.times) == (kind, sent, 1)


def test_what_one_device_says_to_itself_does_not_count():
  text = "ENTRY %main (x: f32[8]) -> f32[8] {\n  %a = f32[8]{0} all-reduce(%x), "
  assert hlo.Program(text + "replica_groups={{0},{1}}\n}\n").collectives() == []


@pytest.mark.parametrize(
  ("groups", "crosses"),
  [
    ("{{0,1},{2,3}}", False),
    ("{{0,2},{1,3}}", True),
    ("[2,2]<=[4]", False),
    ("[2,2]<=[2,2]T(1,0)", True),
    ("mesh['a'=2,'b'=2] {'b'}", False),
    ("mesh['a'=2,'b'=2] {'a'}", True),
    ("mesh['a'=4] {'a':(1)2}", True),
  ],
)
def test_exchange_between_slices_is_told(groups, crosses):
  line = f"%a = f32[8]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%add"
  assert one(line, slice_devices=2).crosses_slices == crosses


def test_what_a_tpu_sends_from_slice_to_slice():
  line = (
    "%send.1 = (bf16[128,8]{1,0:T(8,128)(2,1)}, u32[], token[]) send(%a, %b), channel_id=6, "
    'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}'
  )
  found = one(line, slice_devices=4)
  assert found.kind == "send" and found.crosses_slices and found.sent_bytes == 128 * 8 * 2


NESTED = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %c = f32[] add(%a, %b)
}

%inner (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %r = f32[4]{0} all-reduce(%g), replica_groups={{0,1}}, to_apply=%add
}

%until_5 (p: (s32[], f32[4])) -> pred[] {
  %bound = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

%outer (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %w = (s32[], f32[4]) while(%t), condition=%until_5, body=%inner
  %f = f32[8]{0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
}

%all-reduce-scatter.1 (p: f32[8]) -> f32[4] {
  %r = f32[8]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

%gather (p: f32[4]) -> f32[8] {
  %g = f32[8]{0} all-gather(%p), replica_groups={{0,1}}, dimensions={0}
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]) while(%t), body=%outer, backend_config={"known_trip_count":{"n":"3"}}
  %async-collective-start = (f32[4], f32[8]) fusion(%x), kind=kCustom, calls=%gather
  %async-collective-done = f32[8]{0} fusion(%x), kind=kCustom, calls=%gather
}
"""


def test_loops_count_as_often_as_they_run():
  found = hlo.Program(NESTED).collectives()
  assert [(c.kind, c.times, c.in_loop, c.sent_bytes) for c in found] == [
    ("all-reduce", 15, True, 16),
    ("reduce-scatter", 3, True, 16),
    ("all-gather", 1, False, 16),  # begun and ended, but one
  ]


def test_bytes_of_memory_are_those_of_xla():
  """One product, then a loop of them, whose weights are cut out of a stack."""

  def loop(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, weights)[0]

  def traffic(layers):
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((64, 256), (layers, 256, 256))]
    return hlo.Program(jax.jit(loop).lower(*shapes).compile().as_text()).memory_bytes()

  x, w = 64 * 256 * 4, 256 * 256 * 4
  each = (traffic(20) - traffic(10)) / 10
  # The weight is read; the stream read and written; CPU code copies a little in between.
  assert w + 2 * x < each < 4 * (w + 2 * x)
  program = jax.jit(lambda x, w: x @ w)
  shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((64, 256), (256, 256))]
  compiled = program.lower(*shapes).compile()
  want = compiled.cost_analysis()["bytes accessed"]
  assert hlo.Program(compiled.as_text()).memory_bytes() == want == 2 * x + w


TPU = """
%inner (p: f32[6,8,8], i: s32[]) -> f32[8,8] {
  %p = f32[6,8,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %cut = f32[1,8,8]{2,1,0} dynamic-slice(%p, %i, %z, %z), dynamic_slice_sizes={1,8,8}
}

%outer (q: f32[6,8,8], j: s32[]) -> f32[8,8] {
  %q = f32[6,8,8]{2,1,0} parameter(0)
  %j = s32[] parameter(1)
  %same = f32[6,8,8]{2,1,0} bitcast(%q)
  ROOT %f = f32[8,8]{1,0} fusion(%same, %j), kind=kLoop, calls=%inner
}

%write (r: f32[6,8,8], w: f32[1,8,8], k: s32[]) -> f32[6,8,8] {
  %r = f32[6,8,8]{2,1,0} parameter(0)
  %w = f32[1,8,8]{2,1,0} parameter(1)
  %k = s32[] parameter(2)
  ROOT %put = f32[6,8,8]{2,1,0} dynamic-update-slice(%r, %w, %k, %z, %z)
}

ENTRY %main (x: f32[6,8,8]) -> f32[8] {
  %x = f32[6,8,8]{2,1,0} parameter(0)
  %n = s32[] constant(3)
  LINE
}
"""


@pytest.mark.parametrize(
  ("line", "moved"),
  [
    # A part is read, in a fusion within a fusion, and written; the index is four bytes.
    ("%f = f32[8,8]{1,0} fusion(%x, %n), kind=kOutput, calls=%outer", 4 * (64 + 64 + 1)),
    ("%f = f32[8,8]{1,0:T(8,128)S(1)} fusion(%x, %n), kind=kOutput, calls=%outer", 4 * (64 + 1)),
    # A part is written in place: read once where it comes from, written once.
    ("%f = f32[6,8,8]{2,1,0} fusion(%x, %x1, %n), kind=kLoop, calls=%write", 4 * (64 + 1)),
    # To on-chip memory: read alone.
    ("%c = (f32[6,8,8]{2,1,0:S(1)}, f32[6,8,8]{2,1,0}, u32[]{:S(2)}) copy-start(%x)", 4 * 384),
    ("%s = ((f32[6,8,8]{2,1,0}), f32[1,8,8]{2,1,0:S(1)}, s32[]) slice-start(%x)", 4 * 64),
    ("%c = (f32[6,8,8]{2,1,0}, f32[6,8,8]{2,1,0}, u32[]{:S(2)}) copy-start(%x)", 2 * 4 * 384),
    ("%c = f32[6,8,8]{2,1,0} copy-done(%c1)", 0),
    ("%d = f32[2,8,8]{2,1,0} slice(%x), slice={[0:2], [0:8], [0:8]}", 2 * 4 * 128),
  ],
)  # fmt: skip
def test_bytes_of_memory_in_the_forms_that_tpus_have(line, moved):
  assert hlo.Program(TPU.replace("LINE", line)).memory_bytes() == moved
