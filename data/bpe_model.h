// BPE on one word: bytes or characters to ids by merges in order of rank (Sennrich et al., "Neural
// Machine Translation of Rare Words with Subword Units", 2016, on bytes as in GPT-2).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "data/tokenizer_json.h"

namespace sluice::data {

// Immutable; any thread, each with its own scratch.
class BpeModel {
 public:
  struct Merge {
    uint32_t rank = kNoRank;  // lower merges first
    int32_t id = -1;          // what the pair becomes
  };
  static constexpr uint32_t kNoRank = ~0u;

  // Remembers the ids of words seen, and holds the buffers of a merge. For one model.
  class Scratch {
   public:
    Scratch();

   private:
    friend class BpeModel;
    struct Slot {
      uint64_t hash = 0;
      uint32_t word_at = 0, ids_at = 0;  // into words_ and ids_
      uint16_t word_bytes = 0, num_ids = 0;
    };
    void Clear();

    std::vector<Slot> slots_;  // open addressing; word_bytes == 0: free
    size_t used_ = 0;
    std::string words_;
    std::vector<int32_t> ids_;
    std::vector<int32_t> symbols_;
    std::vector<Merge> merges_;  // merges_[i]: of symbols_[i] and symbols_[i + 1]
  };

  // INVALID_ARGUMENT: a merge whose parts or result are not in the vocabulary, or an unknown token
  // without one.
  static absl::StatusOr<std::unique_ptr<BpeModel>> Create(const TokenizerSpec& spec);

  // Appends the ids of `word` (byte-level: any bytes, else valid UTF-8). A byte or character that
  // is no token adds its bytes' tokens, the unknown token or nothing, as Hugging Face's library has
  // it.
  void Encode(absl::string_view word, Scratch& scratch, std::vector<int32_t>* ids) const;

 private:
  // (left id, right id) -> Merge, by open addressing.
  class PairTable {
   public:
    void Reserve(size_t num_pairs);
    void Insert(int32_t left, int32_t right, Merge merge);  // keeps the last one inserted
    Merge Find(int32_t left, int32_t right) const;

   private:
    struct Slot {
      uint64_t pair = kFree;
      Merge merge;
    };
    static constexpr uint64_t kFree = ~uint64_t{0};
    size_t SlotOf(uint64_t pair) const;
    std::vector<Slot> slots_;
    int shift_ = 0;
  };

  using Ids = std::unordered_map<std::string_view, int32_t>;
  absl::Status FillPairs(const TokenizerSpec& spec, const Ids& id_of);
  void FillPairsFromRanks(const TokenizerSpec& spec);
  absl::Status FillUnknown(const TokenizerSpec& spec, const Ids& id_of);
  bool CanCutAtMarks(const TokenizerSpec& spec) const;
  void AppendSymbols(absl::string_view word, std::vector<int32_t>* symbols) const;
  void EncodeCached(absl::string_view word, Scratch& scratch, std::vector<int32_t>* ids) const;
  void MergeShort(Scratch& scratch) const;
  void MergeLong(Scratch& scratch) const;
  void EncodeUncached(absl::string_view word, Scratch& scratch, std::vector<int32_t>* ids) const;

  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };

  bool byte_level_ = true;
  std::vector<int32_t> id_of_symbol_;  // [byte or code point] -1: no token
  std::vector<int32_t> fallback_;      // [byte] of <0xXX>, -1: no token; empty: no fallback
  int32_t unknown_ = -1;               // -1: none
  bool fuse_unknown_ = false;
  bool cut_at_marks_ = false;  // see CanCutAtMarks
  PairTable pairs_;
  bool ignore_merges_ = false;
  // Bytes of a token to its id; filled only for ignore_merges.
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> whole_words_;
};

}  // namespace sluice::data
