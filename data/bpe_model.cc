#include "data/bpe_model.h"

#include <bit>
#include <cstring>
#include <queue>
#include <string_view>
#include <tuple>

#include "absl/strings/str_cat.h"
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
  std::unordered_map<std::string_view, int32_t> id_of;
  id_of.reserve(spec.vocab.size());
  for (const auto& [token, id] : spec.vocab) {
    if (id < 0) return absl::InvalidArgumentError(absl::StrCat("token '", token, "' has id ", id));
    id_of.emplace(token, id);
  }
  const auto find = [&id_of](std::string_view token) {
    const auto at = id_of.find(token);
    return at == id_of.end() ? -1 : at->second;
  };

  int32_t unknown = -1;
  if (!spec.unknown_token.empty()) {
    unknown = find(spec.unknown_token);
    if (unknown < 0)
      return absl::InvalidArgumentError(
          absl::StrCat("unk_token '", spec.unknown_token, "' is not in the vocabulary"));
  }
  model->id_of_byte_.resize(256);
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    const int32_t id = find(ToByteLevel(absl::string_view(&byte, 1)));
    model->id_of_byte_[b] = id >= 0 ? id : unknown;
  }

  model->pairs_.Reserve(spec.merges.size());
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
    model->pairs_.Insert(left_id, right_id, {static_cast<uint32_t>(rank), id});
  }

  model->ignore_merges_ = spec.ignore_merges;
  if (spec.ignore_merges)
    for (const auto& [token, id] : spec.vocab)
      if (auto bytes = FromByteLevel(token)) model->whole_words_.emplace(*std::move(bytes), id);
  return model;
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
  for (const char byte : word) {
    const int32_t id = id_of_byte_[static_cast<uint8_t>(byte)];
    if (id >= 0) scratch.symbols_.push_back(id);
  }
  if (scratch.symbols_.size() <= kShortWord) {
    MergeShort(scratch);
  } else {
    MergeLong(scratch);
  }
  ids->insert(ids->end(), scratch.symbols_.begin(), scratch.symbols_.end());
}

void BpeModel::Encode(absl::string_view word, Scratch& scratch, std::vector<int32_t>* ids) const {
  if (word.size() == 1) {  // whole_words_ would give the same: the token of one byte
    const int32_t id = id_of_byte_[static_cast<uint8_t>(word[0])];
    if (id >= 0) ids->push_back(id);
    return;
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
