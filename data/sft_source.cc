#include "data/sft_source.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "data/permutation.h"
#include "data/sft_corpus.h"
#include "data/sha256.h"
#include "data/token_stream.h"
#include "kernels/core/check.h"
#include "kernels/core/philox.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

struct Document {
  int64_t begin = 0;  // in the stream
  int32_t length = 0;
};

// rows[r]: the documents of sequence r, longest first. Lengths are at most `capacity`.
std::vector<std::vector<Document>> Pack(std::vector<Document> documents, int32_t capacity) {
  std::stable_sort(documents.begin(), documents.end(),
                   [](const Document& a, const Document& b) { return a.length > b.length; });
  std::vector<std::vector<Document>> rows;
  std::set<std::pair<int32_t, size_t>> room;  // (free places, row)
  for (const Document& document : documents) {
    const auto best = room.lower_bound({document.length, 0});
    size_t row = rows.size();
    int32_t free = capacity;
    if (best == room.end()) {
      rows.emplace_back();
    } else {
      std::tie(free, row) = *best;
      room.erase(best);
    }
    rows[row].push_back(document);
    if (free > document.length) room.emplace(free - document.length, row);
  }
  return rows;
}

class PackedSftSource : public SftSource {
 public:
  PackedSftSource(const SftSourceOptions& options, std::unique_ptr<TokenStream> tokens,
                  std::unique_ptr<TokenStream> mask)
      : options_(options),
        shuffle_key_(PhiloxKey(options.seed, RandomPurpose::kShuffle)),
        tokens_(std::move(tokens)),
        mask_(std::move(mask)) {
    const TokenFileInfo& file = tokens_->info();
    info_ = {.vocab_size = file.vocab_size,
             .eos_id = file.eos_id,
             .tokenizer_hash = file.tokenizer_hash,
             .num_tokens = tokens_->num_tokens(),
             .num_documents = tokens_->num_documents(),
             .text_bytes = tokens_->text_bytes(),
             .identity = Sha256Hex(
                 absl::StrCat("conversations\n", tokens_->Identity(), "\n", mask_->Identity()))};
  }

  absl::Status PackAll() {
    if (tokens_->num_tokens() != mask_->num_tokens())
      return absl::InvalidArgumentError(
          absl::StrCat("'", options_.paths[0], "' and what is read with it have ",
                       tokens_->num_tokens(), " tokens, their masks ", mask_->num_tokens()));
    std::vector<int64_t> starts;
    RETURN_IF_ERROR(tokens_->DocumentStarts(0, tokens_->num_tokens(), &starts));
    starts.push_back(tokens_->num_tokens());
    const int64_t capacity = int64_t{options_.sequence_length} + 1;
    std::vector<Document> documents;
    for (size_t i = 0; i + 1 < starts.size(); ++i) {
      Document document = {starts[i],
                           static_cast<int32_t>(std::min(starts[i + 1] - starts[i], capacity))};
      if (starts[i + 1] - starts[i] > capacity) {
        ++packing_.num_cut;
        ASSIGN_OR_RETURN(const bool useful, HasTarget(document));
        if (!useful) {
          ++packing_.num_useless;
          continue;
        }
      }
      packing_.tokens += document.length;
      documents.push_back(document);
    }
    if (documents.empty())
      return absl::InvalidArgumentError(absl::StrCat(
          "'", options_.paths[0], "': no conversation has anything to learn in its first ",
          capacity, " tokens"));
    packing_.conversations = static_cast<int64_t>(documents.size());
    rows_ = Pack(std::move(documents), static_cast<int32_t>(capacity));
    packing_.sequences = static_cast<int64_t>(rows_.size());
    return absl::OkStatus();
  }

  int sequence_length() const override { return options_.sequence_length; }
  int64_t num_samples_per_epoch() const override { return packing_.sequences; }
  const DataSetInfo& info() const override { return info_; }
  const SftPacking& packing() const override { return packing_; }
  int64_t NumTargets(int64_t sample) const override {
    return RowOf(sample) == nullptr ? 0 : options_.sequence_length;
  }

  absl::Status Read(int64_t first_sample, int count, std::span<int32_t> tokens,
                    DocumentStarts* starts) const override {
    if (starts != nullptr) *starts = {.begin = {0}};
    const size_t width = Width(first_sample, count, tokens.size());
    for (int i = 0; i < count; ++i) {
      const auto row = tokens.subspan(static_cast<size_t>(i) * width, width);
      size_t at = 0;
      if (starts != nullptr) starts->positions.push_back(0);
      for (const Document& document : DocumentsOf(first_sample + i)) {
        const auto length = static_cast<size_t>(document.length);
        RETURN_IF_ERROR(tokens_->Read(document.begin, row.subspan(at, length)));
        at += length;
        if (starts != nullptr && at < width) starts->positions.push_back(static_cast<int32_t>(at));
      }
      std::fill(row.begin() + static_cast<int64_t>(at), row.end(), std::max(info_.eos_id, 0));
      if (starts != nullptr)
        starts->begin.push_back(static_cast<int32_t>(starts->positions.size()));
    }
    return absl::OkStatus();
  }

  absl::Status ReadTargetMask(int64_t first_sample, int count,
                              std::span<uint8_t> is_target) const override {
    const size_t width = Width(first_sample, count, is_target.size());
    std::fill(is_target.begin(), is_target.end(), uint8_t{0});
    std::vector<int32_t> bits;
    for (int i = 0; i < count; ++i) {
      size_t at = static_cast<size_t>(i) * width;
      for (const Document& document : DocumentsOf(first_sample + i)) {
        bits.resize(static_cast<size_t>(document.length));
        RETURN_IF_ERROR(mask_->Read(document.begin, bits));
        // What stands before a conversation's first token is another one, or nothing.
        for (size_t k = 1; k < bits.size(); ++k) is_target[at + k] = bits[k] != 0 ? 1 : 0;
        at += bits.size();
      }
    }
    return absl::OkStatus();
  }

 private:
  size_t Width(int64_t first_sample, int count, size_t size) const {
    CHECK(first_sample >= 0 && count >= 0) << first_sample << ", " << count;
    const size_t width = static_cast<size_t>(options_.sequence_length) + 1;
    CHECK_EQ(size, static_cast<size_t>(count) * width);
    return width;
  }

  absl::StatusOr<bool> HasTarget(const Document& document) const {
    std::vector<int32_t> bits(static_cast<size_t>(document.length));
    RETURN_IF_ERROR(mask_->Read(document.begin, bits));
    return std::accumulate(bits.begin(), bits.end(), int64_t{0}) > 0;
  }

  // Null behind the end of a source that does not repeat.
  const std::vector<Document>* RowOf(int64_t sample) const {
    const int64_t rows = packing_.sequences;
    if (sample >= rows && !options_.repeat) return nullptr;
    int64_t index = sample % rows;
    if (options_.shuffle) {
      const auto words = Philox(shuffle_key_, static_cast<uint64_t>(sample / rows), 0);
      index = Permutation(rows, uint64_t{words[1]} << 32 | words[0])(index);
    }
    return &rows_[static_cast<size_t>(index)];
  }
  std::span<const Document> DocumentsOf(int64_t sample) const {
    const std::vector<Document>* row = RowOf(sample);
    return row == nullptr ? std::span<const Document>() : std::span<const Document>(*row);
  }

  const SftSourceOptions options_;
  const uint64_t shuffle_key_;
  const std::unique_ptr<TokenStream> tokens_, mask_;
  DataSetInfo info_;
  SftPacking packing_;
  std::vector<std::vector<Document>> rows_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SftSource>> SftSource::Create(const SftSourceOptions& options) {
  if (options.sequence_length < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("sequence length ", options.sequence_length, ", wanted at least 1"));
  ASSIGN_OR_RETURN(auto tokens, TokenStream::Open(options.paths, options.tokenizer_hash));
  std::vector<std::string> mask_paths;
  for (const std::string& path : options.paths) mask_paths.push_back(TargetMaskPath(path));
  ASSIGN_OR_RETURN(auto mask, TokenStream::Open(mask_paths, tokens->info().tokenizer_hash));
  if (mask->info().vocab_size != 2)
    return absl::InvalidArgumentError(absl::StrCat("'", mask_paths[0], "' is no loss mask"));
  auto source = std::make_unique<PackedSftSource>(options, std::move(tokens), std::move(mask));
  RETURN_IF_ERROR(source->PackAll());
  return source;
}

}  // namespace sluice::data
