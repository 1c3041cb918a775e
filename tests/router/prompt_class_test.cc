// What kind of prompt it is: classes by what the router saw of it, languages of sentences people
// write, nothing made up of too little, and no trouble with any bytes.
#include "router/prompt_class.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <type_traits>

namespace lift::router {
namespace {

std::string_view ClassOf(std::string_view text) {
  return PromptClassName(ClassifyPrompt(ExtractTextFeatures(text)));
}

TEST(PromptClass, TheFirstThatFits) {
  EXPECT_EQ(ClassOf(""), "none");
  EXPECT_EQ(ClassOf("def f(x): return x"), "code");
  EXPECT_EQ(ClassOf("Write a python function that solves the equation 2 = x + 1"), "code");
  EXPECT_EQ(ClassOf("What is 12 * 7?"), "maths");
  EXPECT_EQ(ClassOf("Buy:\n- milk\n- bread\n- butter"), "list");
  EXPECT_EQ(ClassOf("Who wrote Hamlet?"), "question");
  EXPECT_EQ(ClassOf("Good morning to you"), "chat");
  std::string story;
  for (int i = 0; i < 60; ++i) story += "and then they went on ";
  EXPECT_EQ(ClassOf(story), "long");
  EXPECT_EQ(ClassOf(story + "did they?"), "long");
}

struct Sample {
  const char* code;
  const char* text;
};

TEST(Language, SentencesOfEach) {
  const Sample samples[] = {
      {"en", "The quick brown fox jumps over the lazy dog, and what does it want?"},
      {"en", "How are you?"},
      {"de", "Wie ist das Wetter heute in Berlin, und was soll ich anziehen?"},
      {"de", "Schreibe bitte ein Gedicht über den Herbst."},
      {"fr", "Quelle est la capitale de la France et pourquoi est-elle célèbre ?"},
      {"fr", "Écris un poème sur la mer pour mon ami."},
      {"es", "¿Cuál es la capital de España y cuántos habitantes tiene?"},
      {"es", "Escribe un cuento para los niños de la escuela."},
      {"it", "Qual è la capitale della Francia e perché è famosa?"},
      {"it", "Scrivi una poesia sul mare per il mio amico che non dorme."},
      {"pt", "Qual é a capital do Brasil e por que não é o Rio?"},
      {"pt", "Escreva um poema sobre o mar para os meus amigos."},
      {"nl", "Wat is de hoofdstad van Nederland en waarom is het niet Den Haag?"},
      {"sv", "Vad är huvudstaden i Sverige och varför är det inte Göteborg?"},
      {"pl", "Jaka jest stolica Polski i dlaczego nie jest to Kraków?"},
      {"tr", "Türkiye'nin başkenti neresidir ve neden İstanbul değil?"},
      {"ru", "Какая столица России и почему это не Петербург?"},
      {"uk", "Яка столиця України і чому це не Львів?"},
      {"zh", "法国的首都是哪里？为什么？"},
      {"ja", "フランスの首都はどこですか。"},
      {"ja", "東京都の人口を教えてください"},
      {"ko", "프랑스의 수도는 어디입니까?"},
      {"ar", "ما هي عاصمة فرنسا؟"},
      {"he", "מהי בירת צרפת?"},
      {"el", "Ποια είναι η πρωτεύουσα της Γαλλίας;"},
      {"th", "เมืองหลวงของฝรั่งเศสคืออะไร"},
      {"hi", "फ्रांस की राजधानी क्या है?"},
  };
  for (const Sample& sample : samples) {
    EXPECT_EQ(DetectLanguage(sample.text), sample.code) << sample.text;
  }
}

TEST(Language, UpperCaseAndCodeAroundItChangeNothing) {
  EXPECT_EQ(DetectLanguage("WIE IST DAS WETTER, UND WAS SOLL ICH FÜR MORGEN PLANEN?"), "de");
  EXPECT_EQ(DetectLanguage("КАКАЯ СТОЛИЦА И ПОЧЕМУ?"), "ru");
  EXPECT_EQ(DetectLanguage("Pourquoi est-ce que la fonction `int main() { return 0; }` est dans "
                           "le fichier et pas dans les tests ?"),
            "fr");
}

TEST(Language, TooLittleIsUndetermined) {
  for (const char* text : {"", "12 + 7 = ?", "xyzzy qwfp", "...", "\xF0\x9F\x98\x80", "\n\n",
                           "foo_bar baz qux corge grault"}) {
    EXPECT_EQ(DetectLanguage(text), "und") << text;
  }
}

TEST(Language, ReadsTheBeginningOnly) {
  const std::string english = "what is the name of this and why is it so for you ";
  std::string text;
  while (text.size() < kLanguageBytes) text += english;
  EXPECT_EQ(DetectLanguage(text + std::string(100000, '?') + "法国的首都是哪里"), "en");
}

TEST(Language, AnyBytes) {
  std::mt19937 rng(5);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes(rng() % 200, '\0');
    for (char& c : bytes) c = static_cast<char>(rng());
    EXPECT_FALSE(DetectLanguage(bytes).empty());
  }
}

// The kind of a prompt says nothing of who sent it.
TEST(PromptKind, IsAClassAndALanguage) {
  auto [prompt_class, language] = KindOf(ExtractTextFeatures("Who are you?"), "Who are you?");
  static_assert(std::is_same_v<decltype(prompt_class), PromptClass>);
  static_assert(std::is_same_v<decltype(language), std::string_view>);
  EXPECT_EQ(PromptClassName(prompt_class), "question");
  EXPECT_EQ(language, "en");
}

}  // namespace
}  // namespace lift::router
