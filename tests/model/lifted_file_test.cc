// The lifted file: what is written is read back; what is damaged or lies is refused with a
// sentence.
#include "kernels/format/lifted_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "tests/model/random_lifted.h"

namespace lift {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr char kFixture[] = LIFT_TEST_DATA "/lifted_v1.lift";

std::string TempPath(const std::string& name) {
  return (fs::temp_directory_path() / ("lift_format_" + std::to_string(getpid()) + "_" + name))
      .string();
}

std::vector<std::byte> ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

// Two tensors, three stages, one vector. Tensor a: 40 x 96, stages of 2 and 1 bits; b: 17 x 64, one
// stage of 1 bit.
struct Sample {
  LiftedFileWriter writer;
  std::vector<float> source = std::vector<float>(40 * 96 + 17 * 64);
  Sample(bool with_source = true) {
    std::mt19937 random(7);
    writer.SetModelConfig(R"({"architecture":"llama"})");
    writer.SetTokenizer(R"({"type":"byte_level_bpe"})");
    writer.SetSourceSha256(std::string(64, 'a'));
    writer.SetReport(R"({"seconds":1})");
    const int two = writer.AddCode(testing::RandomCode("2+1p", 2, 1, 8, random));
    const int one = writer.AddCode(testing::RandomCode("1", 1, 0, 8, random));
    writer.AddVector("norm", {1, 2, 3});
    for (float& x : source) x = static_cast<float>(random() % 100);
    auto view = [&](int64_t rows, int64_t cols, size_t at) -> std::optional<DenseMatrixView> {
      if (!with_source) return std::nullopt;
      return DenseMatrixView{DType::kF32, rows, cols,
                             reinterpret_cast<const std::byte*>(&source[at])};
    };
    testing::AddRandomTensor(writer, "a", 40, 96, {true, 5}, {{two, 2}, {one, 1}}, random, .1f,
                             view(40, 96, 0));
    testing::AddRandomTensor(writer, "b", 17, 64, {}, {{one, 1}}, random, .1f,
                             view(17, 64, 40 * 96));
    writer.SetPlaneOrder({{0, 0}, {1, 0}, {0, 1}});
    writer.SetVariants(Variants(with_source));
  }
  // Unit bytes: a0 = 3 row tiles * 3 blocks * 2 * 64 = 1152; b0 = 2 * 2 * 64 = 256; a1 = 576.
  static std::vector<LiftedVariant> Variants(bool full) {
    std::vector<LiftedVariant> variants(full ? 4 : 3);
    variants[0].name = "low", variants[0].plane_bytes = 1152 + 256;
    variants[1].name = "cut", variants[1].plane_bytes = 1152 + 256 + 2 * 192 + 100;
    variants[2].name = "high", variants[2].plane_bytes = 1152 + 256 + 576,
    variants[2].wide_stages = 1;
    if (full) variants[3].name = "full", variants[3].full = true;
    return variants;
  }
};

std::string WriteSample(const std::string& name, bool with_source = true) {
  Sample sample(with_source);
  const std::string path = TempPath(name);
  const absl::Status status = sample.writer.Finish(path);
  EXPECT_TRUE(status.ok()) << status;
  return path;
}

TEST(LiftedFile, ARouterComesAndGoesAndTheWeightsStay) {
  for (const bool with_source : {false, true}) {
    const std::string path = WriteSample("router", with_source), other = TempPath("routed");
    const std::vector<std::byte> before = ReadAll(path);
    const auto bare = *LiftedFile::Open(path);
    EXPECT_EQ(bare->router_json(), "");
    const std::string router(5000, 'r');  // META grows past a page: everything moves
    ASSERT_TRUE(bare->SaveWithRouter(other, router).ok());
    EXPECT_EQ(ReadAll(path), before);
    const auto routed = LiftedFile::Open(other);
    ASSERT_TRUE(routed.ok()) << routed.status();
    EXPECT_EQ((*routed)->router_json(), router);
    EXPECT_EQ((*routed)->weights_sha256(), bare->weights_sha256());
    EXPECT_TRUE(std::ranges::equal((*routed)->planes(), bare->planes()));
    EXPECT_TRUE(std::ranges::equal((*routed)->source(), bare->source()));
    // In place, while it is open, and away again: the same bytes as before.
    ASSERT_TRUE((*routed)->SaveWithRouter(other, "").ok());
    EXPECT_EQ((*routed)->router_json(), router);
    EXPECT_EQ(ReadAll(other), before);
    const auto cut = LiftedFile::Open(path, {.cuts = {bare->variants()[0].bytes + 192}});
    ASSERT_TRUE(cut.ok()) << cut.status();
    EXPECT_EQ((*cut)->SaveWithRouter(other, "x").code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(bare->SaveWithRouter(other, "\xff").code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ReadAll(other), before);
  }
}

TEST(LiftedFile, RoundTrip) {
  const std::string path = WriteSample("round");
  auto file = LiftedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const LiftedFile& f = **file;
  EXPECT_EQ(f.model_config_json(), R"({"architecture":"llama"})");
  EXPECT_EQ(f.tokenizer_json(), R"({"type":"byte_level_bpe"})");
  EXPECT_EQ(f.report_json(), R"({"seconds":1})");
  EXPECT_EQ(f.source_sha256(), std::string(64, 'a'));
  EXPECT_EQ(f.weights_sha256().size(), 64u);
  ASSERT_EQ(f.codes().size(), 2u);
  std::mt19937 random(7);
  const LiftCode expected = testing::RandomCode("2+1p", 2, 1, 8, random);
  EXPECT_EQ(f.codes()[0].taps, expected.taps);
  EXPECT_EQ(f.codes()[0].masks, expected.masks);
  ASSERT_NE(f.FindVector("norm"), nullptr);
  EXPECT_THAT(f.FindVector("norm")->values, ::testing::ElementsAre(1, 2, 3));
  EXPECT_EQ(f.FindVector("none"), nullptr);
  const LiftedTensor* a = f.FindTensor("a");
  ASSERT_NE(a, nullptr);
  EXPECT_TRUE(a->rotation.enabled);
  EXPECT_EQ(a->rotation.seed, 5u);
  EXPECT_FALSE(f.FindTensor("b")->rotation.enabled);
  EXPECT_EQ(a->stages[1].offset, 1152u + 256u);
  EXPECT_EQ(a->row_scale.size(), 40u);
  Sample sample;
  EXPECT_EQ(std::memcmp(a->source->data, sample.source.data(), a->source->bytes()), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(f.planes().data()) % 64, 0u);
  // The planes are stored byte for byte in plane order: regenerate b's only stage.
  EXPECT_EQ(f.planes().size(), 1152u + 256u + 576u);
  fs::remove(path);
}

TEST(LiftedFile, VariantsSayWhatTheyHold) {
  const std::string path = WriteSample("variants");
  auto file = LiftedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto variants = (*file)->variants();
  const double weights = 40 * 96 + 17 * 64;
  ASSERT_EQ(variants.size(), 4u);
  EXPECT_EQ(variants[1].plane_bytes, 1152u + 256u + 2 * 192u);  // cut to a row tile
  EXPECT_DOUBLE_EQ(variants[0].bits_per_weight, 8 * 1408 / weights);
  EXPECT_EQ(variants[0].bytes, (*file)->fixed_bytes() + 1408);
  EXPECT_EQ(variants[3].bytes, weights * 4 + 12);
  EXPECT_DOUBLE_EQ(variants[3].bits_per_weight, 32);
  EXPECT_DOUBLE_EQ(variants[3].lambda, 1);
  EXPECT_DOUBLE_EQ(variants[2].lambda, std::log2(variants[2].bits_per_weight) / 4);
  EXPECT_EQ(variants[2].wide_stages, 1);
  fs::remove(path);
}

TEST(LiftedFile, AnyBudgetIsAVariant) {
  const std::string path = WriteSample("cuts");
  auto bare = LiftedFile::Open(path);
  ASSERT_TRUE(bare.ok()) << bare.status();
  const uint64_t fixed = (*bare)->fixed_bytes();
  // One row tile (192 bytes) and a little into the last unit.
  auto file = LiftedFile::Open(path, {.cuts = {fixed + 1408 + 200}});
  ASSERT_TRUE(file.ok()) << file.status();
  const auto variants = (*file)->variants();
  ASSERT_EQ(variants.size(), 5u);
  EXPECT_EQ(variants[1].plane_bytes, 1408u + 192u);
  EXPECT_EQ(variants[1].bytes, fixed + 1408 + 192);
  EXPECT_EQ(variants[1].budget_bytes, fixed + 1408 + 200);
  EXPECT_EQ(variants[1].name[0], 'b');
  EXPECT_EQ(variants[1].kl, -1);
  EXPECT_EQ(variants[4].name, "full");
  EXPECT_EQ((*file)->weights_sha256(), (*bare)->weights_sha256());

  const auto refused = [&](std::vector<uint64_t> cuts, const char* why) {
    const auto status = LiftedFile::Open(path, {.cuts = std::move(cuts)}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(why));
  };
  refused({fixed + 1407}, "first stages alone need");
  refused({0}, "first stages alone need");
  refused({fixed + 1408 + 10}, "same planes");
  refused({uint64_t{1} << 60}, "same planes");
  fs::remove(path);
}

TEST(LiftedFile, PrefixArithmetic) {
  const std::string path = WriteSample("prefix", false);
  auto file = LiftedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  using Rows = std::vector<int64_t>;
  const LiftedFile& f = **file;
  EXPECT_EQ(f.StageRows(0, 0), (Rows{0, 0}));
  EXPECT_EQ(f.StageRows(0, 383), (Rows{0, 0}));
  EXPECT_EQ(f.StageRows(0, 384), (Rows{16, 0}));
  EXPECT_EQ(f.StageRows(0, 1152), (Rows{40, 0}));
  EXPECT_EQ(f.StageRows(1, 1152 + 128), (Rows{16}));
  EXPECT_EQ(f.StageRows(1, 1152 + 256), (Rows{17}));
  EXPECT_EQ(f.StageRows(0, 1152 + 256 + 2 * 192 + 5), (Rows{40, 32}));
  EXPECT_EQ(f.StageRows(0, uint64_t{1} << 60), (Rows{40, 40}));
  EXPECT_EQ(f.CutPlanes(383), 0u);
  EXPECT_EQ(f.CutPlanes(1152 + 255), 1152u + 128u);
  EXPECT_EQ(f.CutPlanes(1 << 30), f.planes().size());
  EXPECT_EQ(CutToRowTile(f, 400), f.fixed_bytes() + 384);
  fs::remove(path);
}

TEST(LiftedFile, SameInputSameBytesAndIdentityDependsOnWeights) {
  const std::string a = WriteSample("same_a"), b = WriteSample("same_b"),
                    c = WriteSample("same_c", false);
  EXPECT_EQ(ReadAll(a), ReadAll(b));
  EXPECT_NE((*LiftedFile::Open(a))->weights_sha256(), (*LiftedFile::Open(c))->weights_sha256());
  for (const auto& path : {a, b, c}) fs::remove(path);
}

TEST(LiftedFile, EveryFlippedByteIsRefused) {
  const std::string path = WriteSample("flip");
  const std::vector<std::byte> good = ReadAll(path);
  ASSERT_TRUE(LiftedFile::FromBytes(good, {}).ok());
  for (size_t i = 0; i < good.size(); ++i) {
    std::vector<std::byte> bad = good;
    bad[i] ^= std::byte{1 << 3};
    const auto file = LiftedFile::FromBytes(bad, {});
    ASSERT_FALSE(file.ok()) << "byte " << i;
    ASSERT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
    if (i > 20000) i += 96;  // the planes and sources: a sample is enough
  }
  fs::remove(path);
}

TEST(LiftedFile, EveryTruncationIsRefused) {
  const std::string path = WriteSample("cut");
  const std::vector<std::byte> good = ReadAll(path);
  for (size_t n = 0; n < good.size(); n += n < 300 ? 1 : 501) {
    EXPECT_FALSE(LiftedFile::FromBytes(std::span(good).first(n), {}).ok()) << n;
  }
  auto longer = good;
  longer.push_back(std::byte{0});
  EXPECT_THAT(LiftedFile::FromBytes(longer, {}).status().message(), HasSubstr("appended"));
  fs::remove(path);
}

TEST(LiftedFile, PartialVerification) {
  const std::string path = WriteSample("partial");
  auto bytes = ReadAll(path);
  auto file = LiftedFile::FromBytes(bytes, {});
  ASSERT_TRUE(file.ok());
  // Damage the last unit only: the file still opens without verify_planes and the low variant's
  // prefix verifies.
  const std::span<const std::byte> planes = (*file)->planes();
  const auto at = std::search(bytes.begin(), bytes.end(), planes.begin(), planes.end());
  ASSERT_NE(at, bytes.end());
  *(at + static_cast<std::ptrdiff_t>(planes.size()) - 1) ^= std::byte{0x80};
  EXPECT_THAT(LiftedFile::FromBytes(bytes, {}).status().message(),
              HasSubstr("stage 1 of 'a' is damaged"));
  auto lazy = LiftedFile::FromBytes(bytes, {.verify_planes = false});
  ASSERT_TRUE(lazy.ok()) << lazy.status();
  EXPECT_TRUE((*lazy)->VerifyPlanes(1152 + 256).ok());
  EXPECT_FALSE((*lazy)->VerifyPlanes(1152 + 256 + 192).ok());
  ThreadPool pool(3);
  std::atomic<bool> stop{false};
  EXPECT_TRUE((*lazy)->VerifyPlanes(1152 + 256, &pool, &stop).ok());
  EXPECT_THAT((*lazy)->VerifyPlanes(planes.size(), &pool, &stop).message(),
              HasSubstr("stage 1 of 'a' is damaged"));
  stop = true;
  EXPECT_EQ((*lazy)->VerifyPlanes(planes.size(), &pool, &stop).code(),
            absl::StatusCode::kCancelled);
  fs::remove(path);
}

// Rewrites META through `edit` with all checksums made right again: only the content lies.
std::vector<std::byte> EditMeta(std::vector<std::byte> bytes,
                                const std::function<void(json&)>& edit) {
  auto get = [&](size_t at) {
    uint64_t v;
    std::memcpy(&v, &bytes[at], 8);
    return v;
  };
  auto put = [&](size_t at, auto v) { std::memcpy(&bytes[at], &v, sizeof(v)); };
  auto crc = [&](size_t at, size_t n) {
    return static_cast<uint32_t>(
        crc32(0, reinterpret_cast<const Bytef*>(&bytes[at]), static_cast<uInt>(n)));
  };
  const size_t offset = get(64 + 8), size = get(64 + 16);
  json meta = json::parse(std::string_view(reinterpret_cast<const char*>(&bytes[offset]), size));
  edit(meta);
  std::string text = meta.dump();
  EXPECT_LE(text.size(), size) << "edits must not grow META";
  text.resize(size, ' ');
  std::memcpy(&bytes[offset], text.data(), size);
  put(64 + 4, crc(offset, size));
  put(36, crc(64, 6 * 32));
  put(60, crc(0, 60));
  return bytes;
}

TEST(LiftedFile, LiesInMetaAreRefused) {
  const std::string path = WriteSample("lies");
  const auto good = ReadAll(path);
  auto refused = [&](const std::function<void(json&)>& edit, const std::string& sentence) {
    const auto bad = EditMeta(good, [&](json& m) {
      m["report"] = m["source_sha256"] = "";
      edit(m);
    });
    const auto file = LiftedFile::FromBytes(bad, {});
    ASSERT_FALSE(file.ok()) << sentence;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(sentence));
  };
  EXPECT_TRUE(LiftedFile::FromBytes(EditMeta(good, [](json&) {}), {}).ok());
  refused([](json& m) { m["codes"][0]["stored"] = 9; }, "1 to 8 streams");
  refused([](json& m) { m["codes"][0]["steps"] = 40; }, "more than 64 signs");
  refused([](json& m) { m["codes"][0]["taps"].erase(0); }, "steps * streams taps");
  refused([](json& m) { m["codes"][0]["masks"] = {4}; }, "names a derived stream");
  refused([](json& m) { m["codes"][0]["masks"] = {0}; }, "empty mask");
  refused([](json& m) { m["codes"][0]["masks"] = {1ull << 24}; }, "more than 7 steps");
  refused([](json& m) { m["codes"][0]["masks"] = json::array(); }, "one mask for each");
  refused([](json& m) { m["codes"].erase(1); }, "names a code");
  refused([](json& m) { m["tensors"][0]["rows"] = 0; }, "shape");
  refused([](json& m) { m["tensors"][0]["rows"] = 9e18; }, "must be an integer");
  refused([](json& m) { m["tensors"][0]["rows"] = 200; }, "does not fit its shape");
  refused([](json& m) { m["tensors"][0]["cols"] = -96; }, "shape");
  refused([](json& m) { m["tensors"][0]["stages"][1]["offset"] = 0; }, "does not fit its shape");
  refused([](json& m) { m["tensors"][0]["stages"] = json::array(); }, "1 to 16 stages");
  refused([](json& m) { m["tensors"][1]["name"] = "a"; }, "appears twice");
  refused([](json& m) { m["tensors"][1]["source_dtype"] = "F99"; }, "known type");
  refused([](json& m) { m["tensors"][1]["source_dtype"] = "F16"; }, "do not follow");
  refused([](json& m) { m["tensors"][1]["source_dtype"] = "Q4_K"; }, "source whose shape");
  refused([](json& m) { m["tensors"][1].erase("source_dtype"); }, "needs every source");
  refused([](json& m) { m["plane_order"].erase(0); }, "exactly once");
  refused([](json& m) { std::swap(m["plane_order"][0], m["plane_order"][2]); }, "out of order");
  refused([](json& m) { m["plane_order"][0] = {7, 0}; }, "names a tensor");
  refused([](json& m) { m["plane_order"][0] = "x"; }, "pairs of tensor");
  refused([](json& m) { m["plane_crc32"].erase(0); }, "one entry for each");
  refused([](json& m) { m["plane_crc32"][0] = 1; }, "contradict");
  refused([](json& m) { m["vectors"][0]["count"] = 4000000; }, "do not follow");
  refused([](json& m) { m["vectors"][0]["count"] = 1ull << 63; }, "larger than any file");
  refused([](json& m) { m["variants"] = json::array(); }, "1 to 255 variants");
  refused([](json& m) { m["variants"][1]["name"] = "low"; }, "name of its own");
  refused([](json& m) { m["variants"][1]["plane_bytes"] = 1; }, "more planes");
  refused([](json& m) { m["variants"][0]["plane_bytes"] = 1400; }, "sizes that do not follow");
  refused([](json& m) { m["variants"][0]["bytes"] = 5; }, "sizes that do not follow");
  refused([](json& m) { m["variants"][0]["full"] = true; }, "must be the last one");
  refused([](json& m) { m["variants"][0]["kl"] = "x"; }, "must be a number");
  refused([](json& m) { m["variants"][0]["wide_stages"] = 99; }, "out of range");
  refused([](json& m) { m = json::array(); }, "not a JSON object");
  refused([](json& m) { m.erase("tensors"); }, "'tensors' is missing");
  fs::remove(path);
}

TEST(LiftedFile, NotALiftedFile) {
  EXPECT_EQ(LiftedFile::Open(TempPath("nothing")).status().code(), absl::StatusCode::kNotFound);
  const std::string text(200, 'x');
  EXPECT_THAT(
      std::string(LiftedFile::FromBytes(std::as_bytes(std::span(text)), {}).status().message()),
      HasSubstr("wrong magic"));
  EXPECT_FALSE(LooksLikeLiftedFile(std::as_bytes(std::span(text))));
  EXPECT_FALSE(LooksLikeLiftedFile({}));
}

TEST(LiftedFileWriter, RefusesWhatAReaderWould) {
  const std::string path = TempPath("refuse");
  auto refused = [&](const std::function<void(LiftedFileWriter&)>& edit,
                     const std::string& sentence) {
    Sample sample;
    edit(sample.writer);
    const absl::Status status = sample.writer.Finish(path);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(sentence));
    EXPECT_FALSE(fs::exists(path));
  };
  refused([](LiftedFileWriter& w) { w.SetPlaneOrder({{0, 0}, {1, 0}}); }, "exactly once");
  refused([](LiftedFileWriter& w) { w.SetPlaneOrder({{0, 1}, {1, 0}, {0, 0}}); }, "out of order");
  refused([](LiftedFileWriter& w) { w.AddTensor("c", 1, 1, {}, {}, {}); }, "1 to 16 stages");
  refused([](LiftedFileWriter& w) { w.AddVector("norm", {}); }, "appears twice");
  refused([](LiftedFileWriter& w) { w.SetVariants({}); }, "1 to 255 variants");
  refused([](LiftedFileWriter& w) { w.SetModelConfig("\xff"); }, "UTF-8");
  refused(
      [](LiftedFileWriter& w) {
        w.AddTensor("c", 1, 1, {}, {0}, {{0, 1.f, {1, 2}}});
        w.SetPlaneOrder({{0, 0}, {1, 0}, {0, 1}, {2, 0}});
      },
      "bytes of planes instead of");
  refused(
      [](LiftedFileWriter& w) {
        w.AddTensor("c", 1, 1, {}, {}, {{1, 1.f, std::vector<uint8_t>(64)}});
        w.SetPlaneOrder({{0, 0}, {1, 0}, {0, 1}, {2, 0}});
      },
      "one scale per row");
  refused(
      [](LiftedFileWriter& w) {
        w.AddTensor("c", 1, kMaxRowSigns, {}, {0}, {{0, 1.f, std::vector<uint8_t>(64)}});
        w.SetPlaneOrder({{0, 0}, {1, 0}, {0, 1}, {2, 0}});
      },
      "signs in a row of one stage");
}

TEST(LiftedFileWriter, FailsCleanlyWhereItCannotWrite) {
  Sample sample;
  const absl::Status status = sample.writer.Finish("/nonexistent-folder/x.lift");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nonexistent-folder/x.lift"));
}

// The fixture was written by the first release of version 1 and must stay readable with the same
// meaning.
TEST(LiftedFile, FixtureOfVersion1StaysReadable) {
  auto file = LiftedFile::Open(kFixture);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->weights_sha256(),
            "b60f8296835fc2fbff6d1571ffc4504d3f6c83894d9c5dbdd3c83f07687f2595");
  EXPECT_EQ((*file)->variants().size(), 3u);
  EXPECT_EQ((*file)->variants()[1].plane_bytes, 1152u + 256u + 2 * 192u);
  EXPECT_EQ((*file)->StageRows(0, (*file)->variants()[1].plane_bytes),
            (std::vector<int64_t>{40, 32}));
}

// Run with --gtest_also_run_disabled_tests --gtest_filter=*WriteFixture to make the fixture of a
// new version.
TEST(LiftedFile, DISABLED_WriteFixture) {
  Sample sample(/*with_source=*/false);
  ASSERT_TRUE(sample.writer.Finish(kFixture).ok());
  std::printf("weights_sha256 %s\n", (*LiftedFile::Open(kFixture))->weights_sha256().c_str());
}

}  // namespace
}  // namespace lift
