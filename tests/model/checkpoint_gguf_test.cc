#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>

#include "server/model/checkpoint/gguf.h"
#include "tests/model/gguf_builder.h"

namespace lift {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

void ExpectRefused(const std::string& file, absl::StatusCode code, const std::string& word) {
  const absl::Status status = GgufFile::Parse(AsBytes(file), "x.gguf").status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  EXPECT_THAT(std::string(status.message()), HasSubstr("x.gguf"));
}
void ExpectWrong(const std::string& file, const std::string& word) {
  ExpectRefused(file, absl::StatusCode::kInvalidArgument, word);
}

// Two F32 vectors of 8 elements: 32 bytes each, at offsets 0 and 32.
GgufBuilder TwoTensors() {
  GgufBuilder builder;
  builder.Tensor("a", {8}, 0, 0).Tensor("b", {4, 2}, 0, 32);
  return builder;
}

TEST(GgufFileTest, ReadsEveryKindOfValue) {
  GgufBuilder builder;
  builder.Value<uint8_t>("u8", GgufType::kUint8, 200).Value<int8_t>("i8", GgufType::kInt8, -5);
  builder.Value<uint16_t>("u16", GgufType::kUint16, 60000)
      .Value<int16_t>("i16", GgufType::kInt16, -300);
  builder.U32("u32", 4000000000u).Value<int32_t>("i32", GgufType::kInt32, -70000);
  builder.Value<uint64_t>("u64", GgufType::kUint64, uint64_t{1} << 40);
  builder.Value<int64_t>("i64", GgufType::kInt64, std::numeric_limits<int64_t>::min());
  builder.F32("f32", 0.5f).Value<double>("f64", GgufType::kFloat64, 1e300);
  builder.Value<uint8_t>("yes", GgufType::kBool, 1).Text("text", "caf\xC3\xA9").Text("empty", "");
  builder.Strings("list", {"a", "", "ccc"});
  builder.Array("ints", GgufType::kInt16, 2, std::string("\x01\x00\xFF\xFF", 4));
  const std::string bytes = builder.Build();
  const auto parsed = GgufFile::Parse(AsBytes(bytes), "x.gguf");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const GgufFile& file = **parsed;
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.GetInt("u8").value(), 200);
  EXPECT_EQ(file.GetInt("i8").value(), -5);
  EXPECT_EQ(file.GetInt("u16").value(), 60000);
  EXPECT_EQ(file.GetInt("i16").value(), -300);
  EXPECT_EQ(file.GetInt("u32").value(), 4000000000);
  EXPECT_EQ(file.GetInt("i32").value(), -70000);
  EXPECT_EQ(file.GetInt("u64").value(), int64_t{1} << 40);
  EXPECT_EQ(file.GetInt("i64").value(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(file.GetFloat("f32").value(), 0.5);
  EXPECT_EQ(file.GetFloat("f64").value(), 1e300);
  EXPECT_EQ(file.GetFloat("u8").value(), 200.0);
  EXPECT_TRUE(file.GetBool("yes").value());
  EXPECT_EQ(file.GetString("text").value(), "caf\xC3\xA9");
  EXPECT_EQ(file.GetString("empty").value(), "");
  EXPECT_THAT(file.GetStrings("list").value(), ElementsAre("a", "", "ccc"));
  EXPECT_THAT(file.GetInts("ints").value(), ElementsAre(1, -1));
  EXPECT_EQ(file.keys().size(), 15u);
}

TEST(GgufFileTest, GettersNameKeyAndTypes) {
  GgufBuilder builder;
  builder.Text("text", "x")
      .Value<uint64_t>("huge", GgufType::kUint64, ~uint64_t{0})
      .Strings("list", {"a"});
  const std::string bytes = builder.Build();
  const auto file = GgufFile::Parse(AsBytes(bytes), "x.gguf").value();
  EXPECT_EQ(file->GetInt("absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(file->GetInt("absent", 7).value(), 7);
  EXPECT_EQ(file->GetString("absent", "y").value(), "y");
  const absl::Status wrong = file->GetInt("text", 7).status();
  EXPECT_EQ(wrong.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(wrong.message()),
              testing::AllOf(HasSubstr("\"text\""), HasSubstr("string"), HasSubstr("integer")));
  EXPECT_THAT(std::string(file->GetInt("huge").status().message()), HasSubstr("too large"));
  EXPECT_THAT(std::string(file->GetInts("list").status().message()), HasSubstr("array of string"));
  EXPECT_FALSE(file->GetString("list").ok());
  EXPECT_FALSE(file->GetStrings("text").ok());
  EXPECT_FALSE(file->GetBool("text").ok());
  EXPECT_FALSE(file->GetFloats("list").ok());
}

TEST(GgufFileTest, PlacesTensorsAndReadsVersion2) {
  GgufBuilder builder = TwoTensors();
  builder.version = 2;
  const std::string bytes = builder.Build(std::string(32, 'A') + std::string(32, 'B'));
  const auto parsed = GgufFile::Parse(AsBytes(bytes), "x.gguf");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const GgufTensor* b = (*parsed)->FindTensor("b");
  ASSERT_NE(b, nullptr);
  EXPECT_THAT(b->dims, ElementsAre(4, 2));
  ASSERT_EQ(b->bytes.size(), 32u);
  EXPECT_EQ(b->bytes[0], std::byte{'B'});
  EXPECT_EQ((*parsed)->FindTensor("c"), nullptr);
}

TEST(GgufFileTest, EveryTruncationIsRefused) {
  GgufBuilder builder = TwoTensors();
  builder.Strings("list", {"abc", "d"}).U32("n", 1).Array("ints", GgufType::kUint8, 3, "xyz");
  const std::string whole = builder.Build(std::string(64, 'x'));
  ASSERT_TRUE(GgufFile::Parse(AsBytes(whole), "x.gguf").ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string cut =
        whole.substr(0, size);  // its own allocation, so that ASan sees one byte too many
    EXPECT_EQ(GgufFile::Parse(AsBytes(cut), "x.gguf").status().code(),
              absl::StatusCode::kInvalidArgument)
        << size;
  }
}

TEST(GgufFileTest, RefusesOtherFilesVersionsAndByteOrders) {
  GgufBuilder builder;
  builder.magic = 0x12345678;
  ExpectWrong(builder.Build(), "not a GGUF file");
  builder = GgufBuilder();
  builder.version = 1;
  ExpectRefused(builder.Build(), absl::StatusCode::kUnimplemented, "version 1");
  builder.version = 4;
  ExpectRefused(builder.Build(), absl::StatusCode::kUnimplemented, "version 4");
  builder.version = 0x03000000;
  ExpectRefused(builder.Build(), absl::StatusCode::kUnimplemented, "big-endian");
}

TEST(GgufFileTest, RefusesLyingCounts) {
  for (const uint64_t lie : {uint64_t{3}, uint64_t{1} << 32, ~uint64_t{0}}) {
    GgufBuilder tensors = TwoTensors(), values = TwoTensors();
    tensors.tensor_count = lie;
    values.value_count = lie;
    EXPECT_FALSE(GgufFile::Parse(AsBytes(tensors.Build()), "x.gguf").ok());
    EXPECT_FALSE(GgufFile::Parse(AsBytes(values.Build()), "x.gguf").ok());
    ExpectWrong(GgufBuilder().Array("a", GgufType::kUint64, lie, "12345678").Build(), "claims");
    ExpectWrong(GgufBuilder().Array("a", GgufType::kString, lie, "12345678").Build(), "claims");
    std::string length;
    GgufBuilder::Append(length, lie);
    ExpectWrong(GgufBuilder().Raw("s", 8, length + "ab").Build(), "ends inside");
  }
}

TEST(GgufFileTest, NestedArraysAreSkippedUpToADepth) {
  std::string inner;  // array of two uint8
  GgufBuilder::Append<uint32_t>(inner, 0);
  GgufBuilder::Append<uint64_t>(inner, 2);
  inner += "ab";
  const auto wrap = [](const std::string& element) {
    std::string out;
    GgufBuilder::Append<uint32_t>(out, 9);
    GgufBuilder::Append<uint64_t>(out, 1);
    return out + element;
  };
  const std::string good = GgufBuilder().Raw("deep", 9, wrap(wrap(inner))).U32("n", 5).Build();
  const auto file = GgufFile::Parse(AsBytes(good), "x.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->GetInt("n").value(), 5);
  EXPECT_FALSE((*file)->GetInts("deep").ok());
  std::string deep = inner;
  for (int i = 0; i < 1000; ++i) deep = wrap(deep);
  ExpectWrong(GgufBuilder().Raw("deep", 9, deep).Build(), "nests arrays deeper");
}

TEST(GgufFileTest, RefusesBadMetadata) {
  ExpectWrong(GgufBuilder().U32("k", 1).U32("k", 1).Build(), "twice");
  ExpectWrong(GgufBuilder().U32("", 1).Build(), "metadata key");
  ExpectWrong(GgufBuilder().U32(std::string(70000, 'k'), 1).Build(), "metadata key");
  ExpectWrong(GgufBuilder().Raw("k", 13, "abcd").Build(), "unknown type 13");
  ExpectWrong(GgufBuilder().Raw("k", 0xFFFFFFFF, "abcd").Build(), "unknown type");
  ExpectWrong(GgufBuilder().Array("k", static_cast<GgufType>(77), 1, "abcd").Build(),
              "unknown type 77");
  ExpectWrong(GgufBuilder().Value<uint8_t>("k", GgufType::kBool, 2).Build(), "boolean");
  for (const uint32_t alignment : {0u, 4u, 33u, 1u << 20}) {
    ExpectWrong(GgufBuilder().U32("general.alignment", alignment).Build(), "alignment");
  }
  ExpectWrong(GgufBuilder().Text("general.alignment", "32").Build(), "general.alignment");
}

TEST(GgufFileTest, RefusesBadTensors) {
  const std::string data(64, 'x');
  const auto one = [&data](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
    return GgufBuilder().Tensor("t", dims, type, offset).Build(data);
  };
  ExpectWrong(one({}, 0, 0), "dimensions");
  ExpectWrong(one({1, 1, 1, 1, 1}, 0, 0), "dimensions");
  ExpectWrong(one({8, 0}, 0, 0), "impossible dimension 0");
  ExpectWrong(one({uint64_t{1} << 33, uint64_t{1} << 33}, 0, 0), "impossible dimension");
  ExpectWrong(one({~uint64_t{0}}, 0, 0), "impossible dimension");
  ExpectWrong(one({17}, 0, 0), "truncated");
  ExpectWrong(one({8}, 0, 64), "truncated");
  ExpectWrong(one({8}, 0, uint64_t{0} - 32), "truncated");
  ExpectWrong(one({8}, 0, 16), "alignment");
  ExpectWrong(one({33}, 8, 0), "multiple of the 32 of a Q8_0 block");
  ExpectRefused(one({256}, 23, 0), absl::StatusCode::kUnimplemented, "IQ4_XS");
  ExpectRefused(one({256}, 1000, 0), absl::StatusCode::kUnimplemented, "number 1000");
  ExpectWrong(GgufBuilder().Tensor("t", {8}, 0, 0).Tensor("t", {8}, 0, 32).Build(data), "twice");
  ExpectWrong(GgufBuilder().Tensor("t", {16}, 0, 0).Tensor("u", {8}, 0, 32).Build(data),
              "overlaps");
  ExpectWrong(GgufBuilder().Tensor("", {8}, 0, 0).Build(data), "tensor name");
  ExpectWrong(GgufBuilder().Tensor(std::string(300, 'n'), {8}, 0, 0).Build(data), "tensor name");
}

TEST(GgufFileTest, MessagesEscapeHostileNames) {
  const std::string file =
      GgufBuilder().Tensor("a\n\x1B[31m" + std::string(200, 'y'), {0}, 0, 0).Build();
  const std::string message(GgufFile::Parse(AsBytes(file), "x.gguf").status().message());
  EXPECT_THAT(message, HasSubstr("a\\n\\x1b"));
  EXPECT_LT(message.size(), 220u);
}

TEST(GgufFileTest, OpenReadsAFileAndNamesIt) {
  const auto file = GgufFile::Open(LIFT_TEST_DATA "/tiny/tiny-tied-mixed.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->GetString("general.architecture").value(), "llama");
  EXPECT_EQ((*file)->GetStrings("tokenizer.ggml.tokens").value().size(), 331u);
  EXPECT_EQ((*file)->FindTensor("blk.1.attn_k.weight")->type, DType::kQ5_0);
  EXPECT_EQ(GgufFile::Open("/nonexistent.gguf").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace lift
