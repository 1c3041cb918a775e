#include "calibration/calib_data.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

namespace lift {
namespace {

// One token a byte.
std::shared_ptr<const Tokenizer> ByteTokenizer() {
  TokenizerSpec spec;
  spec.type = "byte_level_bpe";
  // The byte-level alphabet: printable bytes stand for themselves, the others are shifted past
  // U+0100.
  int shifted = 0;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const int code = printable ? b : 256 + shifted++;
    std::string utf8;
    if (code < 128)
      utf8 = static_cast<char>(code);
    else
      utf8 = {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
    spec.tokens.push_back(utf8);
  }
  spec.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}";
  auto made = Tokenizer::Create(spec);
  EXPECT_TRUE(made.ok()) << made.status();
  return *made;
}

class CalibData : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::temp_directory_path() / ("calib_data_test." + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  std::filesystem::path folder_;
};

TEST_F(CalibData, SamplesAndHeldOutTextAreDisjoint) {
  std::string text;
  for (int i = 0; i < 2000; ++i)
    text += static_cast<char>('a' + i * 26 / 2000);  // position can be read off the letter
  CalibrationDataOptions options;
  options.samples = 5;
  options.context = 100;
  options.held_out_tokens = 150;
  const auto data = LoadCalibrationData({Write("t.txt", text)}, *ByteTokenizer(), options);
  ASSERT_TRUE(data.ok()) << data.status();
  ASSERT_EQ(data->samples.size(), 5u);
  for (const auto& s : data->samples) EXPECT_EQ(s.size(), 100u);
  EXPECT_EQ(data->held_out.size(), 150u);
  int last = 0;
  for (const auto& s : data->samples) last = std::max(last, s.back());
  EXPECT_LE(last, data->held_out.front());
  EXPECT_TRUE(data->warning.empty());
}

TEST_F(CalibData, SameSeedSameSamples) {
  std::string text(5000, 'x');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i * 7919 % 26);
  const std::string path = Write("t.txt", text);
  CalibrationDataOptions options;
  options.samples = 4;
  options.context = 64;
  const auto a = LoadCalibrationData({path}, *ByteTokenizer(), options),
             b = LoadCalibrationData({path}, *ByteTokenizer(), options);
  options.seed = 2;
  const auto c = LoadCalibrationData({path}, *ByteTokenizer(), options);
  EXPECT_EQ(a->samples, b->samples);
  EXPECT_NE(a->samples, c->samples);
}

TEST_F(CalibData, ReadsJsonLinesAndChats) {
  std::string lines;
  for (int i = 0; i < 40; ++i)
    lines +=
        "{\"text\": \"plain words here\"}\n\n{\"messages\": [{\"role\": \"user\", \"content\": "
        "\"hi\"}]}\n";
  CalibrationDataOptions options;
  options.samples = 1;
  options.context = 60;
  const auto data = LoadCalibrationData({Write("t.jsonl", lines)}, *ByteTokenizer(), options);
  ASSERT_TRUE(data.ok()) << data.status();
  std::string text;
  for (int32_t id : data->samples[0]) text += static_cast<char>(id);
  EXPECT_NE(text.find("[user]hi"), std::string::npos);
  EXPECT_NE(text.find("plain words"), std::string::npos);
}

TEST_F(CalibData, SaysWhatIsWrong) {
  const auto tokenizer = ByteTokenizer();
  const auto message = [&](const std::string& path) {
    const auto data = LoadCalibrationData({path}, *tokenizer, {});
    EXPECT_FALSE(data.ok());
    return std::string(data.status().message());
  };
  EXPECT_NE(message((folder_ / "absent.txt").string()).find("cannot read"), std::string::npos);
  EXPECT_NE(message(Write("short.txt", "abc")).find("only 3 tokens"), std::string::npos);
  EXPECT_NE(message(Write("bad.jsonl", "{\"text\": \"ok\"}\n{oops}\n")).find("line 2"),
            std::string::npos);
  EXPECT_NE(message(Write("keys.jsonl", "{\"prompt\": \"x\"}\n")).find("\"text\" or \"messages\""),
            std::string::npos);
}

TEST_F(CalibData, InvalidUtf8IsReplacedNotRefused) {
  std::string text(500, 'a');
  text[100] = '\xff';
  EXPECT_TRUE(LoadCalibrationData({Write("t.txt", text)}, *ByteTokenizer(), {}).ok());
}

TEST_F(CalibData, SourcesHaveNamesAndWeights) {
  const std::string path = Write("a:3", "text");
  const auto parsed = [](const std::string& text) { return *ParseCalibrationSource(text); };
  EXPECT_EQ(parsed(path).path, path);  // what exists is a path as it stands
  EXPECT_FALSE(parsed(path).weight.has_value());
  EXPECT_FALSE(parsed(path).named);
  EXPECT_EQ(parsed("law=/x/y.txt:2.5").name, "law");
  EXPECT_EQ(parsed("law=/x/y.txt:2.5").path, "/x/y.txt");
  EXPECT_EQ(parsed("law=/x/y.txt:2.5").weight, 2.5);
  EXPECT_EQ(parsed("/x/y.txt:2").name, "y.txt");
  EXPECT_EQ(parsed("/x=1/y.txt").path, "/x=1/y.txt");
  EXPECT_EQ(parsed("C:/y.txt").path, "C:/y.txt");
  for (const char* wrong : {"", "a=", "=b", "b:0", "b:-1", "a=:3"})
    EXPECT_EQ(ParseCalibrationSource(wrong).status().code(), absl::StatusCode::kInvalidArgument)
        << wrong;
}

TEST_F(CalibData, WeightsShareTheSamples) {
  const std::string a = Write("a.txt", std::string(4000, 'a')),
                    b = Write("b.txt", std::string(4000, 'b'));
  CalibrationDataOptions options;
  options.samples = 8;
  options.context = 50;
  const auto data = LoadCalibrationData({"first=" + a + ":3", b}, *ByteTokenizer(), options);
  ASSERT_TRUE(data.ok()) << data.status();
  ASSERT_EQ(data->samples.size(), 8u);
  std::set<int32_t> ids_of_a(data->samples[0].begin(), data->samples[0].end());
  ASSERT_EQ(ids_of_a.size(), 1u);
  int from_a = 0;
  for (const auto& sample : data->samples) from_a += sample[0] == *ids_of_a.begin();
  EXPECT_EQ(from_a, 6);
  EXPECT_EQ(data->sources[0].samples, 6);
  EXPECT_EQ(data->sources[1].samples, 2);
  EXPECT_EQ(data->sources[0].held_out.size(), 400u);
  EXPECT_EQ(data->warning, "");

  // Too short for its share: says so and gives what it has.
  const auto scarce = LoadCalibrationData({a, Write("c.txt", std::string(100, 'c')) + ":7"},
                                          *ByteTokenizer(), options);
  ASSERT_TRUE(scarce.ok()) << scarce.status();
  EXPECT_NE(scarce->warning.find("'c.txt' yields 1 samples"), std::string::npos) << scarce->warning;
}

TEST_F(CalibData, TextOfAnotherKindIsNoticed) {
  const auto tokenizer = ByteTokenizer();
  const auto data = LoadCalibrationData({Write("t.txt", std::string(500, 'a'))}, *tokenizer, {});
  ASSERT_TRUE(data.ok()) << data.status();
  std::vector<int32_t> text(100, data->samples[0][1]);
  EXPECT_EQ(UnlikeWarning(*data, text), "");
  text[0] = text[1] = 0;
  EXPECT_EQ(UnlikeWarning(*data, text), "");
  for (int i = 0; i < 10; ++i) text[static_cast<size_t>(i)] = 255;
  EXPECT_NE(UnlikeWarning(*data, text).find("10 %"), std::string::npos);
  EXPECT_EQ(UnlikeWarning(*data, {}), "");
}

}  // namespace
}  // namespace lift
