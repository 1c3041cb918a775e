// ExpandByNibbles with tbl, four rows a register.

struct NibblesNeon {
  static constexpr int kRows = 4;
  using Bytes = uint8x16_t;
  using Sums = uint16x8_t;

  static Sums Zero() { return vdupq_n_u16(0); }
  static Bytes Nibbles(const uint32_t* now, const uint32_t* before, int right) {
    // Shifts by a negative count go right, by -32 to nothing.
    uint32x4_t word = vshlq_u32(vld1q_u32(now), vdupq_n_s32(-right));
    if (right < 0) word = vorrq_u32(word, vshlq_u32(vld1q_u32(before), vdupq_n_s32(-(32 + right))));
    return vandq_u8(vreinterpretq_u8_u32(word), vdupq_n_u8(15));
  }
  static Bytes Table(const uint8_t* bytes) { return vld1q_u8(bytes); }
  static Bytes LookUp(Bytes table, Bytes index) { return vqtbl1q_u8(table, index); }
  static void Add(Bytes low, Bytes high, Sums* sum) {
    sum[0] = vaddq_u16(sum[0], vreinterpretq_u16_u8(vzip1q_u8(low, high)));
    sum[1] = vaddq_u16(sum[1], vreinterpretq_u16_u8(vzip2q_u8(low, high)));
  }
  static void Store(const Sums* sum, int8_t* high, int8_t* low) {
    const auto rounded = [&](int i) {
      return vreinterpretq_s8_u16(vaddq_u16(sum[i], vdupq_n_u16(128)));
    };
    vst1q_s8(high, vuzp2q_s8(rounded(0), rounded(1)));
    if (low == nullptr) return;
    vst1q_s8(low, vuzp1q_s8(vreinterpretq_s8_u16(sum[0]), vreinterpretq_s8_u16(sum[1])));
  }
};
