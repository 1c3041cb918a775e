#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "server/model/checkpoint/safetensors.h"
#include "tests/model/safetensors_builder.h"

namespace lift {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kTwo[] = R"({"__metadata__":{"format":"pt"},)"
                        R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                        R"("b":{"dtype":"I64","shape":[],"data_offsets":[24,32]}})";

void ExpectWrong(const std::string& file, const std::string& word) {
  const absl::Status status = SafetensorsFile::Parse(ByteSpan(file), "x.safetensors").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  EXPECT_THAT(std::string(status.message()), HasSubstr("x.safetensors"));
}

// One tensor "t" over 32 bytes of data.
void ExpectWrongEntry(const std::string& entry, const std::string& word) {
  ExpectWrong(Safetensors("{\"t\":" + entry + "}", std::string(32, 'x')), word);
}

TEST(SafetensorsFileTest, ReadsTensors) {
  const std::string bytes = Safetensors(kTwo, std::string(24, 'A') + std::string(8, 'B'));
  const auto file = SafetensorsFile::Parse(ByteSpan(bytes), "x.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->tensors().size(), 2u);
  const SafetensorsTensor& a = (*file)->tensors().at("a");
  EXPECT_EQ(a.type, DType::kF32);
  EXPECT_THAT(a.shape, ElementsAre(2, 3));
  EXPECT_EQ(a.bytes.size(), 24u);
  EXPECT_EQ(a.bytes[0], std::byte{'A'});
  const SafetensorsTensor& b = (*file)->tensors().at("b");
  EXPECT_EQ(b.type, std::nullopt);
  EXPECT_EQ(b.dtype, "I64");
  EXPECT_EQ(b.bytes[7], std::byte{'B'});
}

TEST(SafetensorsFileTest, EveryTruncationIsRefused) {
  const std::string whole = Safetensors(kTwo, std::string(32, 'x'));
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string cut = whole.substr(0, size);
    EXPECT_EQ(SafetensorsFile::Parse(ByteSpan(cut), "x").status().code(),
              absl::StatusCode::kInvalidArgument)
        << size;
  }
  ExpectWrong(whole + "x", "after the last tensor");
}

TEST(SafetensorsFileTest, RefusesBadHeaders) {
  ExpectWrong(Safetensors("{}", "", ~uint64_t{0}), "header claims");
  ExpectWrong(Safetensors("{}", "", 100'000'001), "header claims");
  ExpectWrong(Safetensors("[]", ""), "object is expected");
  ExpectWrong(Safetensors("{", ""), "not valid JSON");
  ExpectWrong(Safetensors("{\"\xFF\":1}", ""), "not valid JSON");
  ExpectWrong(Safetensors(R"({"a":{},"a":{}})", ""), "\"a\" twice");
  ExpectWrong(Safetensors(R"({"t":)" + std::string(100, '[') + std::string(100, ']') + "}", ""),
              "deeper");
}

TEST(SafetensorsFileTest, RefusesBadEntries) {
  ExpectWrongEntry("7", "needs dtype");
  ExpectWrongEntry(R"({"dtype":"F32","shape":[8]})", "needs dtype");
  ExpectWrongEntry(R"({"dtype":4,"shape":[8],"data_offsets":[0,32]})", "needs dtype");
  ExpectWrongEntry(R"({"dtype":"F32","shape":[-8],"data_offsets":[0,32]})", "shape");
  ExpectWrongEntry(R"({"dtype":"F32","shape":[8.0],"data_offsets":[0,32]})", "shape");
  ExpectWrongEntry(R"({"dtype":"F32","shape":8,"data_offsets":[0,32]})", "shape");
  ExpectWrongEntry(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,8],"data_offsets":[0,32]})", "shape");
  ExpectWrongEntry(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,32]})",
                   "impossible dimension");
  ExpectWrongEntry(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,32]})",
                   "impossible dimension");
  ExpectWrongEntry(R"({"dtype":"F32","shape":[8],"data_offsets":[0]})", "data_offsets");
  ExpectWrongEntry(R"({"dtype":"F32","shape":[8],"data_offsets":[32,0]})", "begin <= end");
  ExpectWrongEntry(R"({"dtype":"F32","shape":[7],"data_offsets":[0,32]})",
                   "shape and dtype need 28");
  ExpectWrongEntry(R"({"dtype":"F16","shape":[8],"data_offsets":[0,32]})",
                   "shape and dtype need 16");
  ExpectWrongEntry(R"({"dtype":"F32","shape":[16],"data_offsets":[0,64]})", "truncated");
  ExpectWrongEntry(R"({"dtype":"F32","shape":[4],"data_offsets":[16,32]})", "hole");
  const std::string unknown = Safetensors(
      R"({"t":{"dtype":"Q7","shape":[8],"data_offsets":[0,32]}})", std::string(32, 'x'));
  EXPECT_EQ(SafetensorsFile::Parse(ByteSpan(unknown), "x").status().code(),
            absl::StatusCode::kUnimplemented);
}

TEST(SafetensorsFileTest, RefusesOverlaps) {
  ExpectWrong(Safetensors(R"({"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},)"
                          R"("b":{"dtype":"F32","shape":[4],"data_offsets":[16,32]}})",
                          std::string(32, 'x')),
              "overlaps");
}

}  // namespace
}  // namespace lift
