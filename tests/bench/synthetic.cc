#include "tests/bench/synthetic.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "calibration/codes.h"
#include "kernels/base/float16.h"
#include "kernels/format/lifted_file.h"
#include "server/model/model_layout.h"
#include "server/tokenizer/tokenizer_spec.h"

namespace lift::bench {
namespace {

struct Shape {
  const char* name;
  int64_t vocab, hidden, inner, layers, heads, kv_heads, head_dim, context;
  bool tied;
  int64_t experts = 0, experts_per_token = 0;
};

// The public models of these names (SmolLM2 135M, Llama 3.2 1B and 3B, Llama 2 7B and 13B, Mixtral
// 8x7B).
// 8x7B).
constexpr Shape kShapes[] = {
    {"llama-tiny", 640, 128, 256, 2, 4, 2, 32, 4096, true},  // to try a command with
    {"smollm2-135m", 49152, 576, 1536, 30, 9, 3, 64, 8192, true},
    {"llama-1b", 128256, 2048, 8192, 16, 32, 8, 64, 131072, true},
    {"llama-3b", 128256, 3072, 8192, 28, 24, 8, 128, 131072, true},
    {"llama-7b", 32000, 4096, 11008, 32, 32, 32, 128, 4096, false},
    {"llama-13b", 32000, 5120, 13824, 40, 40, 40, 128, 4096, false},
    {"mixtral-tiny", 640, 128, 256, 2, 4, 2, 32, 4096, true, 6, 2},
    {"mixtral-8x7b", 32000, 4096, 14336, 32, 32, 8, 128, 32768, false, 8, 2},
};

ModelConfig ConfigOf(const Shape& shape) {
  ModelConfig config;
  config.architecture = shape.experts > 0 ? "mixtral" : "llama";
  config.num_experts = shape.experts;
  config.experts_per_token = shape.experts_per_token;
  config.name = absl::StrCat("synthetic-", shape.name);
  config.vocab_size = shape.vocab;
  config.hidden_size = shape.hidden;
  config.intermediate_size = shape.inner;
  config.num_layers = shape.layers;
  config.num_heads = shape.heads;
  config.num_kv_heads = shape.kv_heads;
  config.head_dim = shape.head_dim;
  config.max_context = shape.context;
  config.rope.dimension = shape.head_dim;
  config.tie_embeddings = shape.tied;
  return config;
}

absl::StatusOr<ModelConfig> FindShape(const std::string& name) {
  std::vector<std::string> known;
  for (const Shape& shape : kShapes) {
    if (name == shape.name) return ConfigOf(shape);
    known.push_back(shape.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("--synthetic: no shape '", name,
                                                 "'; choose one of ", absl::StrJoin(known, ", ")));
}

uint64_t NextRandom(uint64_t& state) {  // SplitMix64
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Ones for norms; a router's rows at random, so that tokens choose different experts.
std::vector<float> VectorValues(const layout::VectorSpec& spec, uint64_t& random) {
  std::vector<float> values(static_cast<size_t>(spec.size), 1.0f);
  if (spec.rows == 1) return values;
  for (float& value : values) value = static_cast<float>(NextRandom(random) >> 40) * 0x1p-23f - 1;
  return values;
}

std::vector<uint8_t> RandomPlanes(int64_t rows, int64_t cols, int stored, uint64_t& random) {
  const int64_t tile_words = PaddedColumns(cols) / kTileColumns * stored * kTileRows;
  std::vector<uint8_t> planes(
      static_cast<size_t>(PaddedRows(rows) / kTileRows * tile_words * int64_t{4}));
  for (size_t i = 0; i < planes.size(); i += sizeof(uint64_t)) {
    const uint64_t words = NextRandom(random);
    std::memcpy(planes.data() + i, &words, sizeof(words));
  }
  for (int64_t i = 0; i < (rows % kTileRows == 0 ? 0 : tile_words); ++i) {  // rows past the last
    const int64_t word = static_cast<int64_t>(planes.size()) / 4 - 1 - i;
    if (word % kTileRows >= rows % kTileRows) std::memset(planes.data() + 4 * word, 0, 4);
  }
  return planes;
}

// A token for every byte, and names that no text makes for the other ids: enough for a server.
std::string ByteTokenizer(int64_t vocab) {
  TokenizerSpec spec;
  spec.type = "byte_level_bpe";
  int32_t beyond = 256;
  for (int32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
    const int32_t code = printable ? byte : beyond++;  // below 0x800: one or two bytes of UTF-8
    std::string token;
    if (code < 0x80) {
      token.push_back(static_cast<char>(code));
    } else {
      token.push_back(static_cast<char>(0xC0 | code >> 6));
      token.push_back(static_cast<char>(0x80 | (code & 0x3F)));
    }
    spec.tokens.push_back(std::move(token));
  }
  for (int64_t id = 256; id < vocab; ++id) spec.tokens.push_back(absl::StrCat("token", id));
  return spec.ToJson();
}

}  // namespace

absl::StatusOr<SyntheticSpec> ParseSynthetic(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  SyntheticSpec spec;
  spec.shape = parts[0];
  LIFT_ASSIGN_OR_RETURN(spec.config, FindShape(spec.shape));
  if (parts.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("--synthetic ", text, ": write SHAPE:BITS, e.g. ", spec.shape, ":2,3,4"));
  }
  for (const auto& word : absl::StrSplit(parts[1], ',')) {
    const std::string number(word);
    char* end = nullptr;
    const double bits = std::strtod(number.c_str(), &end);
    if (number.empty() || *end != '\0' || !(bits >= 1 && bits <= 16)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--synthetic ", text, ": bits per weight are numbers from 1 to 16"));
    }
    spec.bits.push_back(bits);
  }
  std::sort(spec.bits.begin(), spec.bits.end());
  spec.bits.erase(std::unique(spec.bits.begin(), spec.bits.end()), spec.bits.end());
  return spec;
}

absl::Status WriteSynthetic(const SyntheticSpec& spec, bool parity, const std::string& path) {
  LiftedFileWriter writer;
  writer.SetModelConfig(spec.config.ToJson());
  writer.SetTokenizer(ByteTokenizer(spec.config.vocab_size));
  writer.SetSourceSha256(std::string(64, '0'));
  std::vector<int> stage_bits;
  for (int left = static_cast<int>(std::ceil(spec.bits.back())); left > 0; left -= 2) {
    stage_bits.push_back(std::min(left, 2));
  }
  int codes[3] = {};
  for (const int bits : {1, 2}) {
    LIFT_ASSIGN_OR_RETURN(LiftCode plain, FindCode("2"));
    if (bits == 1) {  // there is no plain code of one bit: keep the stored stream's taps
      LIFT_ASSIGN_OR_RETURN(const LiftCode one, FindCode("1+1p"));
      plain.name = "1";
      plain.stored = 1;
      plain.steps = one.steps;
      plain.taps.clear();
      for (int m = 0; m < one.steps; ++m) {
        plain.taps.push_back(one.taps[static_cast<size_t>(m) * 2]);
      }
    }
    codes[bits] = writer.AddCode(parity ? DefaultCode(bits) : plain);
  }
  uint64_t random = 1;
  for (const auto& vector : layout::Vectors(spec.config))
    writer.AddVector(vector.name, VectorValues(vector, random));
  const auto matrices = layout::Matrices(spec.config);
  for (const auto& matrix : matrices) {
    // About unit variance of every output, so that nothing overflows over many layers.
    const auto scale = FloatToHalf(1.0f / std::sqrt(static_cast<float>(matrix.cols)));
    std::vector<LiftedFileWriter::StageData> stages;
    float gain = 1;
    for (const int bits : stage_bits) {
      stages.push_back({codes[bits], gain, RandomPlanes(matrix.rows, matrix.cols, bits, random)});
      gain *= 0.3f;
    }
    writer.AddTensor(matrix.name, matrix.rows, matrix.cols, {true, 1},
                     std::vector<uint16_t>(static_cast<size_t>(matrix.rows), scale),
                     std::move(stages));
  }
  std::vector<PlaneUnit> order;
  double weights = 0;
  for (const auto& matrix : matrices) {
    weights += static_cast<double>(PaddedRows(matrix.rows)) *
               static_cast<double>(PaddedColumns(matrix.cols));
  }
  for (size_t j = 0; j < stage_bits.size(); ++j) {
    for (size_t i = 0; i < matrices.size(); ++i) {
      order.push_back({static_cast<int>(i), static_cast<int>(j)});
    }
  }
  writer.SetPlaneOrder(std::move(order));
  std::vector<LiftedVariant> variants;
  for (const double bits : spec.bits) {
    LiftedVariant& variant = variants.emplace_back();
    variant.name = absl::StrFormat("q%g", bits);
    variant.plane_bytes = static_cast<uint64_t>(weights * bits / 8);
  }
  writer.SetVariants(std::move(variants));
  return writer.Finish(path);
}

}  // namespace lift::bench
