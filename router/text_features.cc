// Features of a prompt that need no model. Counts are by Unicode ranges, so they mean about the
// same in any script; the word lists are short and multilingual, and every one of them is only
// evidence (README.md).
#include <algorithm>
#include <array>
#include <cctype>
#include <functional>
#include <string>
#include <unordered_set>

#include "router/router.h"

namespace lift::router {
namespace {

struct CodePoint {
  char32_t value = 0;
  size_t length = 1;  // bytes
};

// Lenient: a byte that starts no valid sequence counts as one code point.
CodePoint DecodeAt(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char lead = byte(0);
  const size_t length = lead < 0x80       ? 1
                        : lead >> 5 == 6  ? 2
                        : lead >> 4 == 14 ? 3
                        : lead >> 3 == 30 ? 4
                                          : 1;
  if (length == 1 || at + length > text.size()) return {lead, 1};
  char32_t value = lead & (0xFF >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if (byte(i) >> 6 != 2) return {lead, 1};
    value = value << 6 | (byte(i) & 63);
  }
  return {value, length};
}

bool Between(char32_t c, char32_t low, char32_t high) { return c >= low && c <= high; }

// Scripts written without spaces: each sign is about half a word.
bool IsIdeograph(char32_t c) {
  return Between(c, 0x3040, 0x30FF) || Between(c, 0x3400, 0x9FFF) || Between(c, 0xF900, 0xFAFF) ||
         Between(c, 0x20000, 0x3FFFF);
}
bool IsDigit(char32_t c) { return Between(c, '0', '9') || Between(c, 0xFF10, 0xFF19); }
bool IsMathSign(char32_t c) {
  return Between(c, 0x2200, 0x22FF) || Between(c, 0x2A00, 0x2AFF) || c == 0xD7 || c == 0xF7 ||
         c == 0xB1 || c == 0x3C0 || Between(c, 0x2070, 0x209F);
}
bool IsSymbol(char32_t c) {
  if (c < 0x80) return std::ispunct(static_cast<int>(c)) != 0;
  return Between(c, 0xA1, 0xBF) || c == 0xD7 || c == 0xF7 || Between(c, 0x2010, 0x2BFF) ||
         Between(c, 0x3000, 0x303F) || Between(c, 0xFF01, 0xFF0F) || Between(c, 0xFF1A, 0xFF20);
}
bool IsSpace(char32_t c) {
  return c == ' ' || Between(c, 9, 13) || c == 0xA0 || c == 0x3000 || Between(c, 0x2000, 0x200B);
}
bool EndsSentence(char32_t c) {
  return c == '.' || c == '!' || c == '?' || c == 0x3002 || c == 0xFF01 || c == 0xFF1F ||
         c == 0x61F || c == 0x964;
}
char32_t Lower(char32_t c) {
  if (Between(c, 'A', 'Z') || (Between(c, 0xC0, 0xDE) && c != 0xD7) || Between(c, 0x410, 0x42F)) {
    return c + 0x20;
  }
  return c;
}

void AppendUtf8(char32_t c, std::string& out) {
  const auto put = [&](char32_t x) { out.push_back(static_cast<char>(x)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 63));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 63)), put(0x80 | (c & 63));
  } else {
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 63)), put(0x80 | (c >> 6 & 63)),
        put(0x80 | (c & 63));
  }
}

template <size_t N>
bool OneOf(std::string_view word, const std::array<std::string_view, N>& words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// Whole words, lower case.
constexpr auto kReasoning = std::to_array<std::string_view>(
    {"prove", "proof", "explain", "why", "compare", "contrast", "derive", "analyze", "analyse",
     "analysis", "evaluate", "justify", "argue", "critique", "discuss", "design", "optimize",
     "optimise", "reason", "reasoning", "deduce", "infer", "debug", "refactor", "solve", "step",
     "steps", "detailed", "essay", "tradeoffs", "differences", "advantages", "consequences",
     // de
     "beweise", "beweisen", "erkläre", "erklären", "warum", "vergleiche", "vergleichen", "begründe",
     "analysiere", "löse", "schritt",
     // fr
     "prouve", "prouver", "démontre", "démontrer", "explique", "expliquer", "pourquoi", "comparer",
     "analyser", "étape", "étapes",
     // es, it, pt
     "demuestra", "demostrar", "explica", "explicar", "compara", "comparar", "analiza", "analizar",
     "resuelve", "dimostra", "spiega", "perché", "confronta", "analizza", "prova", "analise",
     "paso", "passo",
     // ru
     "докажи", "докажите", "объясни", "объясните", "почему", "сравни", "сравните",
     // ko, ar, hi
     "증명", "설명", "비교", "분석", "왜", "اشرح", "لماذا", "قارن", "समझाओ", "तुलना", "क्यों"});

// Anywhere in the text: scripts without spaces.
constexpr auto kReasoningParts = std::to_array<std::string_view>(
    {"证明", "證明", "解释", "解釋", "比较", "比較", "分析", "为什么", "為什麼", "推导", "步骤",
     "証明", "説明", "なぜ", "手順"});

constexpr auto kCodeWords = std::to_array<std::string_view>(
    {"code",        "coding",   "python", "javascript", "typescript", "java",    "golang",
     "rust",        "sql",      "bash",   "regex",      "html",       "css",     "script",
     "compile",     "compiler", "debug",  "refactor",   "algorithm",  "api",     "json",
     "unittest",    "github",   "docker", "kubernetes", "cuda",       "haskell", "kotlin",
     "programming", "codice",   "código"});
constexpr auto kCodeParts = std::to_array<std::string_view>(
    {"```",     "#include", "def ", "class ", "();",  "){",     ") {",      "=>",
     "->",      "==",       "!=",   "&&",     "||",   "</",     "/>",       "import ",
     "return ", "printf",   "c++",  "c#",     "代码", "コード", "select * "});

constexpr auto kMathWords = std::to_array<std::string_view>(
    {"equation",  "equations", "integral",    "integrate",  "derivative", "theorem",
     "lemma",     "matrix",    "probability", "polynomial", "irrational", "eigenvalue",
     "logarithm", "calculus",  "algebra",     "geometry",   "gleichung",  "wahrscheinlichkeit",
     "équation",  "théorème",  "ecuación",    "equazione",  "уравнение",  "방정식"});
constexpr auto kMathParts =
    std::to_array<std::string_view>({"\\frac", "\\sum", "\\int", "\\sqrt", "\\(", "\\[", "$$",
                                     "square root", "x^", "^2", "方程", "定理", "积分", "積分"});

template <size_t N>
int64_t CountParts(std::string_view text, const std::array<std::string_view, N>& parts) {
  return std::count_if(parts.begin(), parts.end(), [&](std::string_view part) {
    return text.find(part) != std::string_view::npos;
  });
}

// "12 * 7", "3+4", "2 = x": an operator with a digit on one side and a digit or a letter on the
// other.
bool HasArithmetic(std::string_view text) {
  const auto side = [&](size_t at, int step) -> char {
    for (int i = 0; i < 2 && at < text.size(); ++i, at += static_cast<size_t>(step)) {
      if (text[at] != ' ') return text[at];
    }
    return ' ';
  };
  for (size_t i = 1; i + 1 < text.size(); ++i) {
    if (std::string_view("+*/^=").find(text[i]) == std::string_view::npos) continue;
    const auto left = static_cast<unsigned char>(side(i - 1, -1));
    const auto right = static_cast<unsigned char>(side(i + 1, 1));
    if ((std::isdigit(left) && std::isalnum(right)) ||
        (std::isalnum(left) && std::isdigit(right))) {
      return true;
    }
  }
  return false;
}

bool StartsListItem(std::string_view line) {
  line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  if (line.size() > 2 && (line[0] == '-' || line[0] == '*') && line[1] == ' ') return true;
  size_t digits = 0;
  while (digits < line.size() && std::isdigit(static_cast<unsigned char>(line[digits]))) ++digits;
  return digits > 0 && digits < 4 && digits + 1 < line.size() &&
         (line[digits] == '.' || line[digits] == ')') && line[digits + 1] == ' ';
}

// Counts everything that needs one pass over the code points.
class Scanner {
 public:
  explicit Scanner(TextFeatures& features) : f_(features) {}

  void Add(char32_t c) {
    ++points_;
    if (IsDigit(c)) ++digits_;
    if (IsSymbol(c)) ++symbols_;
    if (c >= 0x80) ++non_ascii_;
    if (IsMathSign(c)) f_.has_math = true;
    if (c == '?' || c == 0xFF1F || c == 0x61F) f_.is_question = true;
    if (EndsSentence(c) && in_sentence_) {
      ++f_.sentences;
      in_sentence_ = false;
    }
    AppendUtf8(Lower(c), lower_);
    if (IsIdeograph(c)) {
      EndWord();
      ++ideographs_;
      in_sentence_ = true;
      distinct_.insert(c);
    } else if (IsSpace(c) || (IsSymbol(c) && c != '\'')) {
      EndWord();
    } else {
      AppendUtf8(Lower(c), word_);
      ++word_points_;
      in_sentence_ = true;
    }
  }

  // Returns the text in lower case.
  std::string Finish() {
    EndWord();
    if (in_sentence_) ++f_.sentences;
    const int64_t tokens = f_.words + ideographs_;
    f_.distinct_word_ratio = tokens == 0 ? 0 : static_cast<double>(distinct_.size()) / tokens;
    f_.mean_word_length = f_.words == 0 ? 0 : static_cast<double>(letters_) / f_.words;
    f_.words += (ideographs_ + 1) / 2;
    const double points = std::max<double>(1, points_);
    f_.digit_ratio = digits_ / points;
    f_.symbol_ratio = symbols_ / points;
    f_.non_ascii_ratio = non_ascii_ / points;
    return std::move(lower_);
  }

 private:
  void EndWord() {
    if (word_.empty()) return;
    ++f_.words;
    letters_ += word_points_;
    distinct_.insert(std::hash<std::string>{}(word_));
    if (OneOf(word_, kReasoning)) ++f_.reasoning_words;
    if (OneOf(word_, kCodeWords)) f_.has_code = true;
    if (OneOf(word_, kMathWords)) f_.has_math = true;
    word_.clear();
    word_points_ = 0;
  }

  TextFeatures& f_;
  std::string word_, lower_;
  std::unordered_set<size_t> distinct_;
  int64_t points_ = 0, digits_ = 0, symbols_ = 0, non_ascii_ = 0, ideographs_ = 0, letters_ = 0;
  int64_t word_points_ = 0;
  bool in_sentence_ = false;
};

void CountLines(std::string_view text, TextFeatures& f) {
  int64_t items = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    ++f.lines;
    if (StartsListItem(text.substr(0, end))) ++items;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  f.has_list = items >= 2;
}

}  // namespace

TextFeatures ExtractTextFeatures(std::string_view text, int64_t turns) {
  TextFeatures f;
  f.bytes = static_cast<int64_t>(text.size());
  f.turns = std::max<int64_t>(1, turns);
  Scanner scanner(f);
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = DecodeAt(text, at);
    scanner.Add(point.value);
    at += point.length;
  }
  const std::string lower = scanner.Finish();
  f.reasoning_words += CountParts(lower, kReasoningParts);
  f.has_code = f.has_code || CountParts(lower, kCodeParts) > 0;
  f.has_math = f.has_math || CountParts(lower, kMathParts) > 0 || HasArithmetic(lower);
  CountLines(text, f);
  return f;
}

}  // namespace lift::router
