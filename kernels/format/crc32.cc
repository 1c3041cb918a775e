// CRC-32 of IEEE 802.3, as zlib computes it, with carry-less multiplication where the CPU has it:
// checking a file then costs about what reading it does.
#include <zlib.h>

#include "kernels/format/layout.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lift::format {
namespace {

uint32_t Table(uint32_t crc, std::span<const std::byte> bytes) {
  return static_cast<uint32_t>(
      crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

#if defined(__x86_64__)

__attribute__((target("pclmul,sse4.1"))) inline __m128i Fold(__m128i x, __m128i next, __m128i k) {
  const __m128i low = _mm_clmulepi64_si128(x, k, 0x00), high = _mm_clmulepi64_si128(x, k, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// x^128 -> the 32-bit remainder (Gopal et al., Fast CRC Computation Using PCLMULQDQ, Intel 2009).
__attribute__((target("pclmul,sse4.1"))) inline uint32_t Reduce(__m128i x) {
  const __m128i k3k4 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
  const __m128i k5 = _mm_set_epi64x(0, 0x0163cd6124);
  const __m128i poly = _mm_set_epi64x(0x01f7011641, 0x01db710641);
  const __m128i mask = _mm_setr_epi32(-1, 0, -1, 0);
  x = _mm_xor_si128(_mm_clmulepi64_si128(x, k3k4, 0x10), _mm_srli_si128(x, 8));
  const __m128i upper = _mm_srli_si128(x, 4);
  x = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(x, mask), k5, 0x00), upper);
  __m128i y = _mm_clmulepi64_si128(_mm_and_si128(x, mask), poly, 0x10);
  y = _mm_clmulepi64_si128(_mm_and_si128(y, mask), poly, 0x00);
  return static_cast<uint32_t>(_mm_extract_epi32(_mm_xor_si128(x, y), 1));
}

// `size` is a multiple of 16, at least 64; crc is the inverted register.
__attribute__((target("pclmul,sse4.1"))) uint32_t Folded(uint32_t crc, const std::byte* p,
                                                         size_t size) {
  const auto* in = reinterpret_cast<const __m128i*>(p);
  const __m128i k1k2 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
  const __m128i k3k4 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
  __m128i x[4];
  for (int i = 0; i < 4; ++i) x[i] = _mm_loadu_si128(in + i);
  x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128(static_cast<int>(crc)));
  in += 4;
  size -= 64;
  for (; size >= 64; size -= 64, in += 4) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) x[i] = Fold(x[i], _mm_loadu_si128(in + i), k1k2);
  }
  for (int i = 1; i < 4; ++i) x[0] = Fold(x[0], x[i], k3k4);
  for (; size >= 16; size -= 16) x[0] = Fold(x[0], _mm_loadu_si128(in++), k3k4);
  return Reduce(x[0]);
}

bool CanFold() { return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1"); }

#endif

}  // namespace

uint32_t Crc32(std::span<const std::byte> bytes) {
  uint32_t crc = 0;
#if defined(__x86_64__)
  static const bool can_fold = CanFold();
  if (const size_t whole = bytes.size() / 16 * 16; can_fold && whole >= 64) {
    crc = ~Folded(~0u, bytes.data(), whole);
    bytes = bytes.subspan(whole);
  }
#endif
  return Table(crc, bytes);
}

}  // namespace lift::format
