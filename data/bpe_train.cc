#include "data/bpe_train.h"

#include <algorithm>
#include <mutex>
#include <queue>
#include <set>
#include <string_view>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "data/pre_tokenizer.h"
#include "data/tokenizer_json.h"
#include "data/utf8.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/thread_pool.h"

namespace sluice::data {

const char kDefaultSplitPattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

constexpr size_t kMaxPartBytes = size_t{1} << 20;

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
};
using WordCounts = std::unordered_map<std::string, int64_t, StringHash, std::equal_to<>>;

void Count(absl::string_view word, int64_t count, WordCounts* counts) {
  const std::string_view key(word.data(), word.size());
  const auto at = counts->find(key);
  if (at != counts->end()) {
    at->second += count;
  } else {
    counts->emplace(key, count);
  }
}

// Cuts behind the first line feed from kMaxPartBytes on.
void AppendParts(absl::string_view document, std::vector<absl::string_view>* parts) {
  while (document.size() > kMaxPartBytes) {
    const size_t line_feed = document.find('\n', kMaxPartBytes);
    if (line_feed == absl::string_view::npos) break;
    parts->push_back(document.substr(0, line_feed + 1));
    document.remove_prefix(line_feed + 1);
  }
  parts->push_back(document);
}

// The merges of a set of words, found one after the other. A symbol is an id.
class MergeFinder {
 public:
  // `words` as bytes with their counts; first_id: of byte b is byte_ids[b].
  MergeFinder(const std::vector<std::pair<std::string, int64_t>>& words,
              const std::vector<int32_t>& byte_ids) {
    begin_.push_back(0);
    for (const auto& [word, count] : words) {
      for (const char byte : word) symbols_.push_back(byte_ids[static_cast<uint8_t>(byte)]);
      begin_.push_back(symbols_.size());
      end_.push_back(symbols_.size());
      counts_.push_back(count);
    }
    for (size_t w = 0; w < counts_.size(); ++w)
      for (size_t i = begin_[w]; i + 1 < end_[w]; ++i)
        Change(symbols_[i], symbols_[i + 1], counts_[w], w);
    PushChanged();
  }

  struct Found {
    int32_t left, right;
    int64_t count;
  };
  // The next pair to merge; count 0 when there is none.
  Found Best() {
    while (!queue_.empty()) {
      const Entry top = queue_.top();
      queue_.pop();
      const int64_t count = pairs_[top.pair].count;
      if (count == top.count)
        return {static_cast<int32_t>(top.pair >> 32), static_cast<int32_t>(top.pair), count};
      if (count > 0) queue_.push({count, top.pair});  // it was an old count
    }
    return {0, 0, 0};
  }

  // Replaces the pair by `id` in all words.
  void Apply(int32_t left, int32_t right, int32_t id) {
    const std::vector<uint32_t> words = std::move(pairs_[Key(left, right)].words);
    for (const uint32_t w : words) ApplyToWord(w, left, right, id);
    pairs_.erase(Key(left, right));
    PushChanged();
  }

 private:
  struct Pair {
    int64_t count = 0;
    std::vector<uint32_t> words;  // that have or had it; may repeat
  };
  struct Entry {
    int64_t count;
    uint64_t pair;
    // The queue's top: the highest count, then the lowest pair.
    bool operator<(const Entry& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  static uint64_t Key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }

  void Change(int32_t left, int32_t right, int64_t count, size_t word) {
    Pair& pair = pairs_[Key(left, right)];
    pair.count += count;
    if (count < 0) return;
    if (pair.words.empty() || pair.words.back() != word)
      pair.words.push_back(static_cast<uint32_t>(word));
    changed_.push_back(Key(left, right));
  }

  void PushChanged() {
    std::sort(changed_.begin(), changed_.end());
    changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
    for (const uint64_t pair : changed_)
      if (const auto at = pairs_.find(pair); at != pairs_.end() && at->second.count > 0)
        queue_.push({at->second.count, pair});
    changed_.clear();
  }

  void ApplyToWord(size_t w, int32_t left, int32_t right, int32_t id) {
    const int64_t count = counts_[w];
    size_t out = begin_[w];
    for (size_t i = begin_[w]; i < end_[w]; ++i) {
      const bool here = i + 1 < end_[w] && symbols_[i] == left && symbols_[i + 1] == right;
      if (!here) {
        symbols_[out++] = symbols_[i];
        continue;
      }
      if (out > begin_[w]) {
        Change(symbols_[out - 1], left, -count, w);
        Change(symbols_[out - 1], id, count, w);
      }
      if (i + 2 < end_[w]) {
        Change(right, symbols_[i + 2], -count, w);
        Change(id, symbols_[i + 2], count, w);
      }
      symbols_[out++] = id;
      ++i;
    }
    end_[w] = out;
  }

  std::vector<int32_t> symbols_;  // of all words; word w: [begin_[w], end_[w])
  std::vector<size_t> begin_, end_;
  std::vector<int64_t> counts_;
  std::unordered_map<uint64_t, Pair> pairs_;
  std::vector<uint64_t> changed_;
  std::priority_queue<Entry> queue_;
};

class BpeTrainerImpl : public BpeTrainer {
 public:
  BpeTrainerImpl(const BpeTrainOptions& options, std::unique_ptr<PreTokenizer> pre_tokenizer)
      : options_(options), pre_tokenizer_(std::move(pre_tokenizer)), pool_(options.num_threads) {}

  void Add(std::span<const std::string> documents) override {
    std::vector<absl::string_view> parts;
    for (const std::string& document : documents) AppendParts(document, &parts);
    std::mutex mutex;
    std::vector<std::unique_ptr<WordCounts>> idle;  // as many as threads ever counted at once
    pool_.ParallelFor(static_cast<int64_t>(parts.size()), [&](int64_t i) {
      std::unique_ptr<WordCounts> counts;
      {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!idle.empty()) {
          counts = std::move(idle.back());
          idle.pop_back();
        }
      }
      if (counts == nullptr) counts = std::make_unique<WordCounts>();
      CountWords(parts[i], counts.get());
      const std::lock_guard<std::mutex> lock(mutex);
      idle.push_back(std::move(counts));
    });
    for (const auto& counts : idle)
      for (const auto& [word, count] : *counts) Count(word, count, &counts_);
  }

  absl::StatusOr<std::string> Train() const override {
    if (counts_.empty())
      return absl::FailedPreconditionError(
          "no text to train a vocabulary on: all inputs are empty");
    TokenizerSpec spec;
    spec.pre_tokenizer.push_back({.pattern = options_.split_pattern});
    std::vector<std::string> token_of;  // in the byte-level alphabet, by id
    for (const std::string& token : options_.special_tokens) {
      spec.added_tokens.push_back(
          {.content = token, .id = static_cast<int32_t>(token_of.size()), .special = true});
      token_of.push_back(token);
    }
    // By the character, that is in the order of code points.
    std::vector<std::pair<uint32_t, uint8_t>> alphabet;
    for (int b = 0; b < 256; ++b)
      alphabet.emplace_back(ByteLevelAlphabet()[b], static_cast<uint8_t>(b));
    std::sort(alphabet.begin(), alphabet.end());
    std::vector<int32_t> byte_ids(256);
    for (const auto& [character, byte] : alphabet) {
      byte_ids[byte] = static_cast<int32_t>(token_of.size());
      token_of.emplace_back();
      AppendUtf8(character, &token_of.back());
    }

    // Sorted: nothing below may depend on the order of a hash table.
    std::vector<std::pair<std::string, int64_t>> words(counts_.begin(), counts_.end());
    std::sort(words.begin(), words.end());
    FindMerges(MergeFinder(words, byte_ids), &token_of, &spec);
    for (size_t id = 0; id < token_of.size(); ++id)
      spec.vocab.emplace_back(token_of[id], static_cast<int32_t>(id));
    return WriteTokenizerJson(spec);
  }

 private:
  void CountWords(absl::string_view text, WordCounts* counts) const {
    std::string replaced;
    if (!IsValidUtf8(text)) {
      AppendAsValidUtf8(text, &replaced);
      text = replaced;
    }
    PreTokenizer::Scratch scratch = pre_tokenizer_->NewScratch();
    pre_tokenizer_->ForEachWord(text, TextPlace::kStart, scratch,
                                [counts](absl::string_view word) { Count(word, 1, counts); });
  }

  void FindMerges(MergeFinder finder, std::vector<std::string>* token_of,
                  TokenizerSpec* spec) const {
    std::unordered_map<std::string, int32_t> id_of;
    for (size_t id = 0; id < token_of->size(); ++id)
      id_of.emplace((*token_of)[id], static_cast<int32_t>(id));
    while (static_cast<int>(token_of->size()) < options_.vocab_size) {
      const auto [left, right, count] = finder.Best();
      if (count < std::max<int64_t>(options_.min_count, 1)) break;
      const std::string joined = (*token_of)[left] + (*token_of)[right];
      // Two ways to the same token are two merges but one token.
      const auto [at, is_new] = id_of.emplace(joined, static_cast<int32_t>(token_of->size()));
      if (is_new) token_of->push_back(joined);
      spec->merges.emplace_back((*token_of)[left], (*token_of)[right]);
      finder.Apply(left, right, at->second);
    }
  }

  const BpeTrainOptions options_;
  const std::unique_ptr<PreTokenizer> pre_tokenizer_;
  kernels::ThreadPool pool_;
  WordCounts counts_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BpeTrainer>> BpeTrainer::Create(const BpeTrainOptions& options) {
  const auto smallest = static_cast<int>(256 + options.special_tokens.size());
  if (options.vocab_size < smallest)
    return absl::InvalidArgumentError(absl::StrCat(
        "a vocabulary of ", options.vocab_size, " tokens cannot hold 256 bytes and ",
        options.special_tokens.size(), " special tokens; at least ", smallest, " are needed"));
  std::set<std::string> seen;
  for (const std::string& token : options.special_tokens)
    if (token.empty() || !IsValidUtf8(token) || !seen.insert(token).second)
      return absl::InvalidArgumentError(
          absl::StrCat("the special token '", token, "' is empty, not UTF-8 or given twice"));
  if (options.num_threads < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("training with ", options.num_threads, " threads; at least 1 is needed"));
  ASSIGN_OR_RETURN(auto pre_tokenizer, PreTokenizer::Create({{.pattern = options.split_pattern}}));
  return std::make_unique<BpeTrainerImpl>(options, std::move(pre_tokenizer));
}

}  // namespace sluice::data
