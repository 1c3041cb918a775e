// The table of what every instruction set compiles from the same sources; the rest is the caller's.

constexpr Kernels SharedKernels(CpuIsa isa, const char* name) {
  Kernels k;
  k.isa = isa;
  k.name = name;
  k.rms_norm_row = RmsNormRow;
  k.layer_norm_row = LayerNormRow;
  k.add = AddInPlace;
  k.swiglu = SwiGluRange;
  k.gelu = GeluRange;
  k.rope_token = RopeToken;
  k.pack_panel = PackPanel;
  k.panel_matmul = PanelMatmulKernel;
  k.store_kv = StoreKvRow;
  k.attend = Attend;
  k.attend_merge = AttendMerge;
  k.rotate = Rotate;
  k.lift_slot = LiftSlotKernel;
  k.derive = DeriveByShifts;
  k.combine = Combine;
  k.scale_rows = ScaleRows;
  k.decode_row = DecodeRow;
  k.conv = ConvKernel;
  k.scan = ScanKernel;
  k.tile_combine = CombineTiles;
  return k;
}
