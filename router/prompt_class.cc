#include "router/prompt_class.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <unordered_map>

namespace lift::router {
namespace {

constexpr size_t kNothing = static_cast<size_t>(-1);
constexpr double kScriptShare = 0.3;  // of the letters: then the text is in that script
constexpr int kEnoughHits = 2;        // common words; one is enough of a text this short:
constexpr int kShortWords = 4;

bool Between(char32_t c, char32_t low, char32_t high) { return c >= low && c <= high; }

enum Script : size_t {
  kLatin,
  kCyrillic,
  kGreek,
  kHan,
  kKana,
  kHangul,
  kArabic,
  kHebrew,
  kDevanagari,
  kThai,
  kScripts
};

std::optional<Script> ScriptOf(char32_t c) {
  struct Range {
    char32_t low, high;
    Script script;
  };
  static constexpr Range kRanges[] = {
      {'a', 'z', kLatin},        {0xDF, 0xF6, kLatin},        {0xF8, 0x24F, kLatin},
      {0x370, 0x3FF, kGreek},    {0x400, 0x52F, kCyrillic},   {0x590, 0x5FF, kHebrew},
      {0x600, 0x6FF, kArabic},   {0x900, 0x97F, kDevanagari}, {0xE00, 0xE7F, kThai},
      {0x1100, 0x11FF, kHangul}, {0x1E00, 0x1EFF, kLatin},    {0x3040, 0x30FF, kKana},
      {0x3400, 0x9FFF, kHan},    {0xAC00, 0xD7AF, kHangul},   {0xF900, 0xFAFF, kHan},
      {0x20000, 0x3FFFF, kHan},
  };
  for (const Range& range : kRanges) {
    if (Between(c, range.low, range.high)) return range.script;
  }
  return std::nullopt;
}

char32_t Lower(char32_t c) {
  if (Between(c, 'A', 'Z') || (Between(c, 0xC0, 0xDE) && c != 0xD7) || Between(c, 0x410, 0x42F)) {
    return c + 0x20;
  }
  if (Between(c, 0x400, 0x40F)) return c + 0x50;
  if (Between(c, 0x100, 0x137) || Between(c, 0x14A, 0x177)) return c | 1;
  if (Between(c, 0x139, 0x148) || Between(c, 0x179, 0x17E)) return c + (c & 1);
  return c;
}

// Lenient: a byte that starts no valid sequence counts as one code point.
char32_t Take(std::string_view& text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t length = lead < 0x80       ? 1
                        : lead >> 5 == 6  ? 2
                        : lead >> 4 == 14 ? 3
                        : lead >> 3 == 30 ? 4
                                          : 1;
  char32_t value = length == 1 ? lead : lead & (0xFF >> (length + 1));
  bool valid = length <= text.size();
  for (size_t i = 1; valid && i < length; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    valid = byte >> 6 == 2;
    value = value << 6 | (byte & 63);
  }
  text.remove_prefix(valid ? length : 1);
  return valid ? value : 0xFFFD;
}

void Append(char32_t c, std::u32string& word) {
  constexpr size_t kLongest = 16;  // longer ones are in no list
  if (word.size() < kLongest) word.push_back(c);
}

// Words that few texts of the language do without and that are rare in the others. A word that two
// lists have counts for both.
struct Language {
  std::string_view code;
  Script script;
  std::u32string_view words;    // a blank before and after each
  std::u32string_view letters;  // that only this one of the script's languages has; a hit each word
};
constexpr auto kLanguages = std::to_array<Language>({
    {"en", kLatin,
     U" the and of to is in that it for with what how are you this was not write please do does "
     U"explain which why can ",
     U""},
    {"de", kLatin,
     U" der die das und ist ein eine nicht mit für auf den von zu wie ich sie es dem was warum "
     U"schreibe bitte werden auch im ",
     U"ß"},
    {"fr", kLatin,
     U" le la les des est une un et dans pour que qui sur pas avec vous je du ce quelle comment "
     U"pourquoi écris au ",
     U"œ"},
    {"es", kLatin,
     U" el la los las de y es una un en que por para con del se no cómo qué cuál escribe al como "
     U"está ",
     U"ñ¿¡"},
    {"it", kLatin,
     U" il lo la gli di e è una un che per con del della non sono come cosa perché scrivi nel le "
     U"dei si qual ",
     U""},
    {"pt", kLatin,
     U" o os as um uma de do da e é que em para com não por como qual você dos escreva no na são "
     U"se ",
     U"ãõ"},
    {"nl", kLatin,
     U" de het een en van is niet dat op voor met wat hoe ik je zijn te schrijf waarom aan die er "
     U"naar ook ",
     U""},
    {"sv", kLatin,
     U" och att det en är som på för med inte jag av den till hur vad varför ett om skriv kan har "
     U"de ",
     U""},
    {"pl", kLatin,
     U" i w na nie jest to z się że do jak co dla czy dlaczego napisz po jaki które od przez są ",
     U"łęąśżźćń"},
    {"tr", kLatin,
     U" ve bir bu için ile ne nasıl neden mi de da çok olarak gibi nedir yaz en var değil ben ",
     U"ğış"},
    {"ru", kCyrillic,
     U" и в не на что это как с по для я почему напиши или он из у к от какой есть ", U"ыэъё"},
    {"uk", kCyrillic, U" і в не на що це як з та для я чому напиши або він із у до від який є ",
     U"іїєґ"},
});

// A word to the languages that have it, a bit each.
using WordLists = std::unordered_map<std::u32string_view, uint32_t>;
const WordLists& Lists() {
  static const WordLists lists = [] {
    WordLists made;
    for (size_t i = 0; i < kLanguages.size(); ++i) {
      std::u32string_view rest = kLanguages[i].words.substr(1);
      while (!rest.empty()) {
        const size_t end = rest.find(U' ');
        made[rest.substr(0, end)] |= 1U << i;
        rest.remove_prefix(end + 1);
      }
    }
    return made;
  }();
  return lists;
}

class Reader {
 public:
  void Add(char32_t raw) {
    const char32_t c = Lower(raw);
    if (c == U'¿' || c == U'¡') Append(c, marks_);
    const std::optional<Script> script = ScriptOf(c);
    if (!script) return EndWord();
    ++letters_[*script];
    ++total_;
    Append(c, word_);
    plain_ = plain_ && c < 0x80;
  }

  std::string_view Finish() {
    EndWord();
    if (total_ == 0) return "und";
    if (Most(kKana) && letters_[kKana] + letters_[kHan] >= total_ * kScriptShare) return "ja";
    constexpr std::pair<Script, std::string_view> kOfOne[] = {
        {kHan, "zh"},   {kHangul, "ko"}, {kArabic, "ar"},     {kHebrew, "he"},
        {kGreek, "el"}, {kThai, "th"},   {kDevanagari, "hi"},
    };
    for (const auto& [script, code] : kOfOne) {
      if (static_cast<double>(letters_[script]) >= kScriptShare * static_cast<double>(total_)) {
        return code;
      }
    }
    return ByWords();
  }

 private:
  // Japanese has kana among the Han signs, Chinese has none.
  bool Most(Script script) const { return letters_[script] * 10 >= letters_[kHan]; }

  void EndWord() {
    if (word_.empty()) return;
    ++words_;
    const auto common = lists_.find(word_);
    for (size_t i = 0; i < kLanguages.size(); ++i) {
      if (common != lists_.end() && (common->second >> i & 1) != 0) ++hits_[i];
      if (plain_) continue;
      if (word_.find_first_of(kLanguages[i].letters) != kNothing) ++hits_[i];
    }
    word_.clear();
    plain_ = true;
  }

  std::string_view ByWords() {
    for (size_t i = 0; i < kLanguages.size(); ++i) {
      if (!marks_.empty() && kLanguages[i].code == "es") ++hits_[i];
    }
    const Script script = letters_[kCyrillic] > letters_[kLatin] ? kCyrillic : kLatin;
    int best = 0, second = 0;
    std::string_view code = "und";
    for (size_t i = 0; i < kLanguages.size(); ++i) {
      if (kLanguages[i].script != script) continue;
      if (hits_[i] > best) {
        second = best, best = hits_[i], code = kLanguages[i].code;
      } else {
        second = std::max(second, hits_[i]);
      }
    }
    const bool enough = best >= kEnoughHits || (best > 0 && words_ <= kShortWords);
    return enough && best > second ? code : "und";
  }

  const WordLists& lists_ = Lists();
  std::u32string word_, marks_;
  bool plain_ = true;  // word_ is ASCII
  std::array<int64_t, kScripts> letters_{};
  std::array<int, kLanguages.size()> hits_{};
  int64_t total_ = 0, words_ = 0;
};

}  // namespace

std::string_view PromptClassName(PromptClass prompt_class) {
  switch (prompt_class) {
    case PromptClass::kNone:
      return "none";
    case PromptClass::kCode:
      return "code";
    case PromptClass::kMaths:
      return "maths";
    case PromptClass::kList:
      return "list";
    case PromptClass::kLong:
      return "long";
    case PromptClass::kQuestion:
      return "question";
    case PromptClass::kChat:
      return "chat";
  }
  return "none";
}

PromptClass ClassifyPrompt(const TextFeatures& f) {
  if (f.bytes == 0) return PromptClass::kNone;
  if (f.has_code) return PromptClass::kCode;
  if (f.has_math) return PromptClass::kMaths;
  if (f.has_list) return PromptClass::kList;
  if (f.words >= kLongWords) return PromptClass::kLong;
  return f.is_question ? PromptClass::kQuestion : PromptClass::kChat;
}

std::string_view DetectLanguage(std::string_view text) {
  text = text.substr(0, kLanguageBytes);
  Reader reader;
  while (!text.empty()) reader.Add(Take(text));
  return reader.Finish();
}

}  // namespace lift::router
