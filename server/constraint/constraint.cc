#include "server/constraint/constraint.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "server/constraint/ebnf.h"
#include "server/constraint/json_schema.h"
#include "server/constraint/limits.h"
#include "server/constraint/regex.h"
#include "server/errors.h"

namespace lift {
namespace {

absl::Status AboutField(const absl::Status& status, const std::string& field) {
  const std::string reason = ErrorReason(status);
  return WithReason(absl::InvalidArgumentError(absl::StrCat(field, ": ", status.message())),
                    reason.starts_with("CONSTRAINT_") ? reason : "INVALID_FIELD", field);
}

absl::StatusOr<Grammar> RegexGrammar(std::string_view pattern) {
  Grammar grammar;
  grammar.AddRule("root");
  LIFT_ASSIGN_OR_RETURN(const int node, ParseRegex(pattern, {}, grammar));
  grammar.rules[0].node = node;
  return grammar;
}

}  // namespace

ConstraintSource::Result ConstraintSource::Make(
    std::string field, const std::string& text,
    absl::StatusOr<Grammar> (*parse)(std::string_view)) {
  if (text.size() > kMaxConstraintBytes) {
    return AboutField(TooLarge("it has ", text.size(), " bytes and may have ", kMaxConstraintBytes),
                      field);
  }
  auto grammar = parse(text);
  if (!grammar.ok()) return AboutField(grammar.status(), field);
  auto source = std::make_shared<ConstraintSource>();
  source->key_ = absl::StrCat(field, "\n", text);
  source->field_ = std::move(field);
  source->grammar_ = *std::move(grammar);
  return source;
}

ConstraintSource::Result ConstraintSource::Regex(const std::string& pattern) {
  return Make("constraint.regex", pattern, &RegexGrammar);
}

ConstraintSource::Result ConstraintSource::JsonSchema(const std::string& schema) {
  return Make("constraint.json_schema", schema, &ParseJsonSchema);
}

ConstraintSource::Result ConstraintSource::JsonObject() {
  return Make(
      "json_object", "",
      +[](std::string_view) -> absl::StatusOr<Grammar> { return AnyJsonObject(); });
}

ConstraintSource::Result ConstraintSource::Ebnf(const std::string& grammar) {
  return Make("constraint.grammar", grammar, &ParseEbnf);
}

ConstraintSource::Result ConstraintSource::Choices(const std::vector<std::string>& texts) {
  const std::string field = "constraint.choices";
  size_t bytes = 0;
  auto source = std::make_shared<ConstraintSource>();
  source->field_ = field;
  source->key_ = field;
  source->grammar_.AddRule("root");
  std::vector<int> ways;
  for (const std::string& text : texts) {
    if (text.empty()) {
      return AboutField(absl::InvalidArgumentError("one is empty; each needs some text"), field);
    }
    bytes += text.size();
    absl::StrAppend(&source->key_, "\n", text.size(), ":", text);
    ways.push_back(source->grammar_.Text(text));
  }
  if (texts.empty()) {
    return AboutField(absl::InvalidArgumentError("there is none; give at least one"), field);
  }
  if (texts.size() > kMaxChoiceStrings || bytes > kMaxConstraintBytes) {
    return AboutField(TooLarge("at most ", kMaxChoiceStrings, " choices of ", kMaxConstraintBytes,
                               " bytes together are accepted"),
                      field);
  }
  const int node = source->grammar_.Choice(std::move(ways));
  source->grammar_.rules[0].node = node;
  return source;
}

// The masks of every state that lies between two tokens.
class MaskBuilder {
 public:
  MaskBuilder(const TokenTrie& trie, CompiledConstraint& out) : trie_(trie), out_(out) {}

  absl::Status Run() {
    const auto states = static_cast<size_t>(out_.dfa_.states());
    out_.words_ = static_cast<size_t>(out_.tokenizer_->vocab_size() + 63) / 64;
    out_.mask_of_.assign(states, 0);
    out_.masks_.assign(out_.words_, 0);
    mask_.resize(out_.words_);
    ids_[std::vector<uint64_t>(out_.words_)] = 0;
    alive_.assign(states, true);
    seen_.assign(states, 0);
    targets_.resize(states);
    LIFT_RETURN_IF_ERROR(Explore());
    if (!FindDead()) return absl::OkStatus();
    if (!alive_[static_cast<size_t>(out_.dfa_.start)]) return Unsatisfiable();
    // Tokens that lead into a dead end leave the masks of the states before it.
    ids_.clear();
    ids_[std::vector<uint64_t>(out_.words_)] = 0;
    out_.masks_.assign(out_.words_, 0);
    for (const int32_t state : order_) LIFT_RETURN_IF_ERROR(MakeMask(state));
    return absl::OkStatus();
  }

  static absl::Status Unsatisfiable() {
    return WithReason(absl::InvalidArgumentError("no text of this model's tokens satisfies it"),
                      "CONSTRAINT_UNSATISFIABLE");
  }

 private:
  static constexpr int64_t kMaxSteps = int64_t{1} << 30;
  static constexpr size_t kMaxMaskBytes = 32 << 20;

  absl::Status Explore() {
    order_.push_back(out_.dfa_.start);
    std::vector<bool> found(targets_.size(), false);
    found[static_cast<size_t>(out_.dfa_.start)] = true;
    for (size_t i = 0; i < order_.size(); ++i) {
      LIFT_RETURN_IF_ERROR(MakeMask(order_[i]));
      for (const int32_t target : targets_[static_cast<size_t>(order_[i])]) {
        if (found[static_cast<size_t>(target)]) continue;
        found[static_cast<size_t>(target)] = true;
        order_.push_back(target);
      }
    }
    return absl::OkStatus();
  }

  absl::Status MakeMask(int32_t state) {
    std::fill(mask_.begin(), mask_.end(), 0);
    auto& targets = targets_[static_cast<size_t>(state)];
    targets.clear();
    ++visit_;
    const Dfa& dfa = out_.dfa_;
    steps_ += trie_.Walk(
        state, path_, [&](int32_t from, uint8_t byte) { return dfa.Step(from, byte); },
        [&](int32_t token, int32_t target) {
          if (!alive_[static_cast<size_t>(target)]) return;
          mask_[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64);
          if (std::exchange(seen_[static_cast<size_t>(target)], visit_) != visit_) {
            targets.push_back(target);
          }
        });
    if (steps_ > kMaxSteps) return TooLarge("its token masks take too long to compute");
    const auto [it, added] = ids_.try_emplace(mask_, 0);
    if (added) {
      it->second = static_cast<int32_t>(out_.masks_.size() / out_.words_);
      out_.masks_.insert(out_.masks_.end(), mask_.begin(), mask_.end());
      if (out_.masks_.size() * sizeof(uint64_t) > kMaxMaskBytes) {
        return TooLarge("its token masks need more than ", kMaxMaskBytes >> 20, " MiB");
      }
    }
    out_.mask_of_[static_cast<size_t>(state)] = it->second;
    return absl::OkStatus();
  }

  // States from which no tokens lead to an end; true if there are any.
  bool FindDead() {
    std::vector<std::vector<int32_t>> sources(targets_.size());
    std::vector<int32_t> open;
    for (const int32_t state : order_) {
      if (out_.Accepts(state)) open.push_back(state);
      for (const int32_t target : targets_[static_cast<size_t>(state)]) {
        sources[static_cast<size_t>(target)].push_back(state);
      }
    }
    std::fill(alive_.begin(), alive_.end(), false);
    size_t alive = 0;
    while (!open.empty()) {
      const auto state = static_cast<size_t>(open.back());
      open.pop_back();
      if (alive_[state]) continue;
      alive_[state] = true;
      ++alive;
      open.insert(open.end(), sources[state].begin(), sources[state].end());
    }
    return alive < order_.size();
  }

  const TokenTrie& trie_;
  CompiledConstraint& out_;
  std::vector<int32_t> order_;                 // states between tokens, as found
  std::vector<std::vector<int32_t>> targets_;  // [states]: where their tokens lead
  std::vector<bool> alive_;
  std::vector<int32_t> seen_;  // [states], by the number of the walk
  std::vector<int32_t> path_;
  int32_t visit_ = 0;
  std::vector<uint64_t> mask_;
  absl::flat_hash_map<std::vector<uint64_t>, int32_t> ids_;
  int64_t steps_ = 0;
};

absl::StatusOr<std::shared_ptr<const CompiledConstraint>> CompiledConstraint::Compile(
    const ConstraintSource& source, std::shared_ptr<const Tokenizer> tokenizer,
    const TokenTrie& trie) {
  auto out = std::make_shared<CompiledConstraint>();
  out->tokenizer_ = std::move(tokenizer);
  const absl::Status status = [&]() -> absl::Status {
    LIFT_ASSIGN_OR_RETURN(const Nfa nfa, BuildNfa(source.grammar()));
    LIFT_ASSIGN_OR_RETURN(out->dfa_, BuildDfa(nfa));
    if (out->dfa_.start == kDead) return MaskBuilder::Unsatisfiable();
    return MaskBuilder(trie, *out).Run();
  }();
  if (!status.ok()) return AboutField(status, source.field());
  return out;
}

int32_t CompiledConstraint::Advance(int32_t state, int32_t token) const {
  const auto index = static_cast<size_t>(token);
  if (token < 0 || index >= words_ * 64) return kDead;
  if ((Allowed(state)[index / 64] >> (index % 64) & 1) == 0) return kDead;
  for (const char c : tokenizer_->TokenBytes(token)) {
    state = dfa_.Step(state, static_cast<uint8_t>(c));
  }
  return state;
}

size_t CompiledConstraint::bytes() const {
  return masks_.size() * sizeof(uint64_t) + (dfa_.next.size() + mask_of_.size()) * sizeof(int32_t) +
         dfa_.accepting.size() / 8;
}

}  // namespace lift
