#include "data/bpe_model.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <queue>
#include <string_view>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "data/utf8.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

// Up to here the quadratic merge, which touches little memory, beats the heap.
constexpr size_t kShortWord = 96;
// Words longer than this are rarely seen twice.
constexpr size_t kMaxCachedWord = 128;
constexpr size_t kCacheSlots = size_t{1} << 17;
constexpr size_t kMaxCachedWords = kCacheSlots / 2;
// What SentencePiece writes for a space.
constexpr uint32_t kMarkCode = 0x2581;
constexpr absl::string_view kMark = "\xe2\x96\x81";
constexpr uint64_t kOddConstant = 0x9E3779B97F4A7C15ull;

uint64_t HashOf(absl::string_view word) {
  uint64_t hash = word.size() * kOddConstant;
  const char* p = word.data();
  size_t left = word.size();
  const auto mix = [&hash](uint64_t bits) {
    hash = (hash ^ bits) * kOddConstant;
    hash ^= hash >> 32;
  };
  for (; left >= 8; left -= 8, p += 8) {
    uint64_t bits;
    std::memcpy(&bits, p, 8);
    mix(bits);
  }
  uint64_t bits = 0;
  std::memcpy(&bits, p, left);
  mix(bits);
  return hash;
}

}  // namespace

BpeModel::Scratch::Scratch() : slots_(kCacheSlots) {}

void BpeModel::Scratch::Clear() {
  slots_.assign(kCacheSlots, Slot());
  used_ = 0;
  words_.clear();
  ids_.clear();
}

void BpeModel::PairTable::Reserve(size_t num_pairs) {
  const size_t size = std::bit_ceil(2 * num_pairs + 2);
  slots_.assign(size, Slot());
  shift_ = 64 - std::countr_zero(size);
}

size_t BpeModel::PairTable::SlotOf(uint64_t pair) const {
  size_t at = (pair * kOddConstant) >> shift_;
  while (slots_[at].pair != pair && slots_[at].pair != kFree) at = (at + 1) & (slots_.size() - 1);
  return at;
}

void BpeModel::PairTable::Insert(int32_t left, int32_t right, Merge merge) {
  const uint64_t pair = uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  slots_[SlotOf(pair)] = {pair, merge};
}

BpeModel::Merge BpeModel::PairTable::Find(int32_t left, int32_t right) const {
  const uint64_t pair = uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  return slots_[SlotOf(pair)].merge;
}

absl::StatusOr<std::unique_ptr<BpeModel>> BpeModel::Create(const TokenizerSpec& spec) {
  auto model = std::make_unique<BpeModel>();
  Ids id_of;
  id_of.reserve(spec.vocab.size());
  for (const auto& [token, id] : spec.vocab) {
    if (id < 0) return absl::InvalidArgumentError(absl::StrCat("token '", token, "' has id ", id));
    id_of.emplace(token, id);
  }
  model->byte_level_ = spec.byte_level;
  RETURN_IF_ERROR(model->FillUnknown(spec, id_of));
  if (spec.byte_level) {
    model->id_of_symbol_.assign(256, -1);
    for (int b = 0; b < 256; ++b) {
      const char byte = static_cast<char>(b);
      const auto at = id_of.find(ToByteLevel(absl::string_view(&byte, 1)));
      if (at != id_of.end()) model->id_of_symbol_[b] = at->second;
    }
  } else {
    for (const auto& [token, id] : spec.vocab) {
      absl::string_view rest = token;
      const auto c = token.empty() ? std::nullopt : TakeCodePoint(&rest);
      if (!c || !rest.empty()) continue;
      if (*c >= model->id_of_symbol_.size()) model->id_of_symbol_.resize(*c + 1, -1);
      model->id_of_symbol_[*c] = id;
    }
  }
  if (spec.merges_are_ranks) {
    model->FillPairsFromRanks(spec);
  } else {
    RETURN_IF_ERROR(model->FillPairs(spec, id_of));
  }
  model->ignore_merges_ = spec.ignore_merges;
  for (const auto& [token, id] : spec.vocab) {
    if (!spec.ignore_merges) break;
    if (!spec.byte_level) {
      model->whole_words_.emplace(token, id);
    } else if (auto bytes = FromByteLevel(token)) {
      model->whole_words_.emplace(*std::move(bytes), id);
    }
  }
  model->cut_at_marks_ = model->CanCutAtMarks(spec);
  return model;
}

absl::Status BpeModel::FillUnknown(const TokenizerSpec& spec, const Ids& id_of) {
  fuse_unknown_ = spec.fuse_unknown;
  const auto find = [&id_of](std::string_view token) {
    const auto at = id_of.find(token);
    return at == id_of.end() ? -1 : at->second;
  };
  if (!spec.unknown_token.empty()) {
    unknown_ = find(spec.unknown_token);
    if (unknown_ < 0)
      return absl::InvalidArgumentError(
          absl::StrCat("unk_token '", spec.unknown_token, "' is not in the vocabulary"));
  }
  for (int b = 0; spec.byte_fallback && b < 256; ++b)
    fallback_.push_back(find(absl::StrFormat("<0x%02X>", b)));
  return absl::OkStatus();
}

absl::Status BpeModel::FillPairs(const TokenizerSpec& spec, const Ids& id_of) {
  const auto find = [&id_of](std::string_view token) {
    const auto at = id_of.find(token);
    return at == id_of.end() ? -1 : at->second;
  };
  pairs_.Reserve(spec.merges.size());
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    const int32_t left_id = find(left), right_id = find(right), id = find(left + right);
    if (left_id < 0 || right_id < 0 || id < 0)
      return absl::InvalidArgumentError(absl::StrCat("merge ", rank, " joins '", left, "' and '",
                                                     right, "', but '",
                                                     left_id < 0    ? left
                                                     : right_id < 0 ? right
                                                                    : left + right,
                                                     "' is not in the vocabulary"));
    pairs_.Insert(left_id, right_id, {static_cast<uint32_t>(rank), id});
  }
  return absl::OkStatus();
}

// tiktoken merges what makes the token of the lowest rank, so each way to halve a token is a pair.
void BpeModel::FillPairsFromRanks(const TokenizerSpec& spec) {
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> id_of;
  for (const auto& [token, id] : spec.vocab)
    if (auto bytes = FromByteLevel(token)) id_of.emplace(*std::move(bytes), id);
  struct Pair {
    int32_t left, right, id;
  };
  std::vector<Pair> pairs;
  for (const auto& [token, id] : id_of) {
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = id_of.find(std::string_view(token).substr(0, cut));
      const auto right = id_of.find(std::string_view(token).substr(cut));
      if (left != id_of.end() && right != id_of.end())
        pairs.push_back({left->second, right->second, id});
    }
  }
  pairs_.Reserve(pairs.size());
  for (const Pair& pair : pairs)
    pairs_.Insert(pair.left, pair.right, {static_cast<uint32_t>(pair.id), pair.id});
}

// A SentencePiece-like vocabulary has no words, only U+2581 for spaces: whole texts come as one
// word. If no merge joins something to a mark behind it, a text may be cut before each mark (that
// follows something else), and its parts, which repeat, be looked up.
bool BpeModel::CanCutAtMarks(const TokenizerSpec& spec) const {
  if (spec.byte_level || spec.ignore_merges || kMarkCode >= id_of_symbol_.size() ||
      id_of_symbol_[kMarkCode] < 0)
    return false;
  for (const auto& [left, right] : spec.merges)
    if (absl::StartsWith(right, kMark) && !absl::EndsWith(left, kMark)) return false;
  return true;
}

void BpeModel::MergeShort(Scratch& scratch) const {
  std::vector<int32_t>& symbols = scratch.symbols_;
  std::vector<Merge>& merges = scratch.merges_;
  size_t n = symbols.size();
  merges.resize(n);
  for (size_t i = 0; i + 1 < n; ++i) merges[i] = pairs_.Find(symbols[i], symbols[i + 1]);
  while (n > 1) {
    size_t best = 0;  // the leftmost of the lowest rank
    for (size_t i = 1; i + 1 < n; ++i)
      if (merges[i].rank < merges[best].rank) best = i;
    if (merges[best].rank == kNoRank) break;
    symbols[best] = merges[best].id;
    --n;
    for (size_t i = best + 1; i < n; ++i) {
      symbols[i] = symbols[i + 1];
      merges[i] = merges[i + 1];
    }
    if (best + 1 < n) merges[best] = pairs_.Find(symbols[best], symbols[best + 1]);
    if (best > 0) merges[best - 1] = pairs_.Find(symbols[best - 1], symbols[best]);
  }
  symbols.resize(n);
}

void BpeModel::MergeLong(Scratch& scratch) const {
  std::vector<int32_t>& symbols = scratch.symbols_;
  const auto n = static_cast<int32_t>(symbols.size());
  constexpr int32_t kGone = -1;
  std::vector<int32_t> next(n), previous(n);
  // (rank, position, left, right): stale once the symbols at the position are others.
  using Candidate = std::tuple<uint32_t, int32_t, int32_t, int32_t, int32_t>;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](int32_t i) {
    if (i < 0 || next[i] >= n) return;
    const Merge merge = pairs_.Find(symbols[i], symbols[next[i]]);
    if (merge.rank != kNoRank) queue.emplace(merge.rank, i, symbols[i], symbols[next[i]], merge.id);
  };
  for (int32_t i = 0; i < n; ++i) next[i] = i + 1, previous[i] = i - 1;
  for (int32_t i = 0; i + 1 < n; ++i) offer(i);
  while (!queue.empty()) {
    const auto [rank, i, left, right, id] = queue.top();
    queue.pop();
    if (symbols[i] != left || next[i] >= n || symbols[next[i]] != right) continue;
    const int32_t gone = next[i];
    symbols[i] = id;
    symbols[gone] = kGone;
    next[i] = next[gone];
    if (next[i] < n) previous[next[i]] = i;
    offer(previous[i]);
    offer(i);
  }
  std::erase(symbols, kGone);
}

void BpeModel::EncodeUncached(absl::string_view word, Scratch& scratch,
                              std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    if (const auto at = whole_words_.find(std::string_view(word.data(), word.size()));
        at != whole_words_.end()) {
      ids->push_back(at->second);
      return;
    }
  }
  scratch.symbols_.clear();
  AppendSymbols(word, &scratch.symbols_);
  if (scratch.symbols_.size() <= kShortWord) {
    MergeShort(scratch);
  } else {
    MergeLong(scratch);
  }
  ids->insert(ids->end(), scratch.symbols_.begin(), scratch.symbols_.end());
}

// What is known, and what is not: its bytes, or an unknown token, which waits for the next known
// character so that neighbours can be one (and so bytes overtake it, as in Hugging Face's library).
void BpeModel::AppendSymbols(absl::string_view word, std::vector<int32_t>* symbols) const {
  bool waiting = false;
  while (!word.empty()) {
    const absl::string_view before = word;
    uint32_t symbol;
    if (byte_level_) {
      symbol = static_cast<uint8_t>(word[0]);
      word.remove_prefix(1);
    } else {
      symbol = TakeCodePoint(&word).value_or(0xfffd);
    }
    const int32_t id = symbol < id_of_symbol_.size() ? id_of_symbol_[symbol] : -1;
    if (id >= 0) {
      if (waiting) symbols->push_back(unknown_);
      waiting = false;
      symbols->push_back(id);
      continue;
    }
    if (!fallback_.empty()) {
      const std::string written = byte_level_ ? ToByteLevel(before.substr(0, 1)) : std::string();
      const absl::string_view bytes =
          byte_level_ ? absl::string_view(written) : before.substr(0, before.size() - word.size());
      const bool all = std::all_of(bytes.begin(), bytes.end(), [this](char byte) {
        return fallback_[static_cast<uint8_t>(byte)] >= 0;
      });
      if (all) {
        for (const char byte : bytes) symbols->push_back(fallback_[static_cast<uint8_t>(byte)]);
        continue;
      }
    }
    if (unknown_ < 0) continue;
    if (waiting && !fuse_unknown_) symbols->push_back(unknown_);
    waiting = true;
  }
  if (waiting) symbols->push_back(unknown_);
}

void BpeModel::Encode(absl::string_view word, Scratch& scratch, std::vector<int32_t>* ids) const {
  if (!cut_at_marks_) return EncodeCached(word, scratch, ids);
  size_t begin = 0;
  while (begin < word.size()) {
    size_t end = begin;
    while (absl::StartsWith(word.substr(end), kMark)) end += kMark.size();
    end = std::min(word.find(kMark, end), word.size());
    EncodeCached(word.substr(begin, end - begin), scratch, ids);
    begin = end;
  }
}

void BpeModel::EncodeCached(absl::string_view word, Scratch& scratch,
                            std::vector<int32_t>* ids) const {
  if (word.size() == 1 && byte_level_) {  // whole_words_ would give the same: the token of a byte
    const int32_t id = id_of_symbol_[static_cast<uint8_t>(word[0])];
    if (id >= 0) {
      ids->push_back(id);
      return;
    }
  }
  if (word.empty() || word.size() > kMaxCachedWord) return EncodeUncached(word, scratch, ids);
  const uint64_t hash = HashOf(word);
  size_t at = hash & (kCacheSlots - 1);
  for (; scratch.slots_[at].word_bytes != 0; at = (at + 1) & (kCacheSlots - 1)) {
    const Scratch::Slot& slot = scratch.slots_[at];
    if (slot.hash == hash && slot.word_bytes == word.size() &&
        std::memcmp(scratch.words_.data() + slot.word_at, word.data(), word.size()) == 0) {
      const int32_t* first = scratch.ids_.data() + slot.ids_at;
      ids->insert(ids->end(), first, first + slot.num_ids);
      return;
    }
  }
  const size_t begin = ids->size();
  EncodeUncached(word, scratch, ids);
  if (scratch.used_ == kMaxCachedWords) {
    scratch.Clear();
    at = hash & (kCacheSlots - 1);
  }
  scratch.slots_[at] = {.hash = hash,
                        .word_at = static_cast<uint32_t>(scratch.words_.size()),
                        .ids_at = static_cast<uint32_t>(scratch.ids_.size()),
                        .word_bytes = static_cast<uint16_t>(word.size()),
                        .num_ids = static_cast<uint16_t>(ids->size() - begin)};
  scratch.words_.append(word.data(), word.size());
  scratch.ids_.insert(scratch.ids_.end(), ids->begin() + static_cast<int64_t>(begin), ids->end());
  ++scratch.used_;
}

}  // namespace sluice::data
