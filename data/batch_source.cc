#include "data/batch_source.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "data/mixture.h"
#include "data/permutation.h"
#include "data/sha256.h"
#include "data/token_stream.h"
#include "kernels/core/check.h"
#include "kernels/core/philox.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

// Where one sample lies.
struct Window {
  const TokenStream* stream;
  int64_t begin;
};

// What both sources do with a window.
class PackedSource : public BatchSource {
 public:
  PackedSource(std::vector<std::unique_ptr<TokenStream>> streams, int sequence_length,
               absl::string_view weights)
      : streams_(std::move(streams)), length_(sequence_length) {
    std::string identity(weights);
    for (const auto& stream : streams_) {
      info_.num_tokens += stream->num_tokens();
      info_.num_documents += stream->num_documents();
      info_.text_bytes += stream->text_bytes();
      absl::StrAppend(&identity, stream->Identity(), "\n");
    }
    const TokenFileInfo& file = streams_[0]->info();
    info_.vocab_size = file.vocab_size;
    info_.eos_id = file.eos_id;
    info_.tokenizer_hash = file.tokenizer_hash;
    info_.identity = Sha256Hex(identity);
  }

  int sequence_length() const override { return length_; }
  const DataSetInfo& info() const override { return info_; }

  absl::Status Read(int64_t first_sample, int count, std::span<int32_t> tokens,
                    DocumentStarts* starts) const override {
    CHECK(first_sample >= 0 && count >= 0) << first_sample << ", " << count;
    const size_t width = static_cast<size_t>(length_) + 1;
    CHECK_EQ(tokens.size(), static_cast<size_t>(count) * width);
    if (starts != nullptr) {
      starts->positions.clear();
      starts->begin.assign(1, 0);
    }
    Scratch scratch;
    for (int i = 0; i < count; ++i) {
      RETURN_IF_ERROR(ReadOne(first_sample + i,
                              tokens.subspan(static_cast<size_t>(i) * width, width),
                              starts == nullptr ? nullptr : &starts->positions, scratch));
      if (starts != nullptr)
        starts->begin.push_back(static_cast<int32_t>(starts->positions.size()));
    }
    return absl::OkStatus();
  }

 protected:
  virtual Window WindowOf(int64_t sample) const = 0;
  virtual const FimOptions* fim() const { return nullptr; }
  std::vector<std::unique_ptr<TokenStream>> streams_;
  const int64_t length_;

 private:
  // Lists of a sample's documents, which the next sample uses again.
  struct Scratch {
    std::vector<int64_t> found;
    std::vector<int32_t> starts;
  };
  absl::Status ReadOne(int64_t sample, std::span<int32_t> tokens, std::vector<int32_t>* positions,
                       Scratch& scratch) const {
    const auto [stream, begin] = WindowOf(sample);
    const int64_t end = std::min(begin + length_ + 1, stream->num_tokens());
    const int64_t count = std::max<int64_t>(0, end - begin);
    if (count > 0) RETURN_IF_ERROR(stream->Read(begin, tokens.first(static_cast<size_t>(count))));
    std::fill(tokens.begin() + count, tokens.end(), 0);
    if (positions == nullptr && fim() == nullptr) return absl::OkStatus();
    auto& [found, starts] = scratch;
    found.clear();
    if (count > 0) RETURN_IF_ERROR(stream->DocumentStarts(begin, end, &found));
    starts.assign(1, 0);
    for (const int64_t start : found)
      if (start > begin) starts.push_back(static_cast<int32_t>(start - begin));
    if (fim() != nullptr) ApplyFim(*fim(), sample, tokens, &starts);
    if (positions != nullptr) positions->insert(positions->end(), starts.begin(), starts.end());
    return absl::OkStatus();
  }

  DataSetInfo info_;
};

class TrainingSource : public PackedSource {
 public:
  TrainingSource(const BatchSourceOptions& options,
                 std::vector<std::unique_ptr<TokenStream>> streams, absl::string_view weights_text,
                 std::span<const double> weights)
      : PackedSource(std::move(streams), options.sequence_length, weights_text),
        shuffle_(options.shuffle),
        shuffle_key_(PhiloxKey(options.seed, RandomPurpose::kShuffle)) {
    if (!weights.empty()) mixture_.emplace(weights, options.seed);
    if (options.fim_rate > 0)
      fim_ = FimOptions{.rate = options.fim_rate,
                        .tokens = options.fim_tokens,
                        .eos_id = info().eos_id,
                        .key = PhiloxKey(options.seed, RandomPurpose::kFim)};
    for (const auto& stream : streams_) num_samples_.push_back(SamplesOf(*stream, length_));
  }

  static int64_t SamplesOf(const TokenStream& stream, int64_t length) {
    return (stream.num_tokens() - 1) / length;
  }

  int64_t num_samples_per_epoch() const override {
    int64_t sum = 0;
    for (const int64_t samples : num_samples_) sum += samples;
    return sum;
  }
  int64_t NumTargets(int64_t /*sample*/) const override { return length_; }

 protected:
  Window WindowOf(int64_t sample) const override {
    const Mixture::Place place = mixture_ ? mixture_->At(sample) : Mixture::Place{0, sample};
    const int64_t samples = num_samples_[static_cast<size_t>(place.source)];
    const int64_t epoch = place.index / samples;
    int64_t index = place.index % samples;
    if (shuffle_) {
      const auto words =
          Philox(shuffle_key_, static_cast<uint64_t>(epoch), static_cast<uint64_t>(place.source));
      index = Permutation(samples, uint64_t{words[1]} << 32 | words[0])(index);
    }
    return {streams_[static_cast<size_t>(place.source)].get(), index * length_};
  }
  const FimOptions* fim() const override { return fim_ ? &*fim_ : nullptr; }

 private:
  const bool shuffle_;
  const uint64_t shuffle_key_;
  std::optional<Mixture> mixture_;
  std::optional<FimOptions> fim_;
  std::vector<int64_t> num_samples_;  // [source] an epoch
};

class SequentialSource : public PackedSource {
 public:
  using PackedSource::PackedSource;
  int64_t num_samples_per_epoch() const override {
    return (streams_[0]->num_tokens() - 1 + length_ - 1) / length_;
  }
  int64_t NumTargets(int64_t sample) const override {
    return std::clamp<int64_t>(streams_[0]->num_tokens() - 1 - sample * length_, 0, length_);
  }

 protected:
  Window WindowOf(int64_t sample) const override { return {streams_[0].get(), sample * length_}; }
};

absl::Status CheckOptions(const BatchSourceOptions& options) {
  if (options.sequence_length < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("sequence length ", options.sequence_length, ", wanted at least 1"));
  if (options.sources.empty()) return absl::InvalidArgumentError("no data source is given");
  if (options.sources.size() > 1024)
    return absl::InvalidArgumentError(
        absl::StrCat(options.sources.size(), " data sources, at most 1024 are possible"));
  size_t with_weight = 0;
  for (const auto& source : options.sources) {
    if (source.weight < 0 || !std::isfinite(source.weight))
      return absl::InvalidArgumentError(
          absl::StrCat("the data weight ", source.weight, " is not a positive number"));
    if (source.weight > 0) ++with_weight;
  }
  if (with_weight != 0 && with_weight != options.sources.size())
    return absl::InvalidArgumentError(
        absl::StrCat(with_weight, " of ", options.sources.size(),
                     " data sources have a weight; give one to all or to none"));
  if (!(options.fim_rate >= 0 && options.fim_rate <= 1))
    return absl::InvalidArgumentError(
        absl::StrCat("fim_rate ", options.fim_rate, ", wanted 0 to 1"));
  const FimTokens& fim = options.fim_tokens;
  if (options.fim_rate > 0 && (fim.prefix < 0 || fim.suffix < 0 || fim.middle < 0))
    return absl::InvalidArgumentError("fim_rate > 0 needs the three fill-in-the-middle tokens");
  return absl::OkStatus();
}

absl::Status CheckLongEnough(const TokenStream& stream, const std::string& path, int64_t needed) {
  if (stream.num_tokens() >= needed) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("'", path, "' and what is read with it have ",
                                                 stream.num_tokens(),
                                                 " tokens, one sequence needs ", needed));
}

}  // namespace

absl::Status BatchSource::ReadTargetMask(int64_t first_sample, int count,
                                         std::span<uint8_t> is_target) const {
  const size_t width = static_cast<size_t>(sequence_length()) + 1;
  CHECK_EQ(is_target.size(), static_cast<size_t>(count) * width);
  for (int i = 0; i < count; ++i) {
    const auto row = is_target.subspan(static_cast<size_t>(i) * width, width);
    std::fill(row.begin(), row.end(), uint8_t{0});
    std::fill_n(row.begin() + 1, NumTargets(first_sample + i), uint8_t{1});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<BatchSource>> MakeBatchSource(const BatchSourceOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  std::vector<double> weights;
  std::vector<std::vector<std::string>> paths(1);
  std::string weights_text;
  for (const auto& source : options.sources) {
    if (source.weight > 0 && options.sources.size() > 1) {
      paths.resize(weights.size() + 1);
      weights.push_back(source.weight);
      absl::StrAppend(&weights_text, source.weight, "\n");
    }
    paths.back().insert(paths.back().end(), source.paths.begin(), source.paths.end());
  }
  std::vector<std::unique_ptr<TokenStream>> streams;
  for (const auto& group : paths) {
    const std::string wanted = options.tokenizer_hash.empty() && !streams.empty()
                                   ? streams[0]->info().tokenizer_hash
                                   : options.tokenizer_hash;
    ASSIGN_OR_RETURN(auto stream, TokenStream::Open(group, wanted));
    RETURN_IF_ERROR(CheckLongEnough(*stream, group[0], int64_t{options.sequence_length} + 1));
    streams.push_back(std::move(stream));
  }
  for (const int32_t id :
       {options.fim_tokens.prefix, options.fim_tokens.suffix, options.fim_tokens.middle})
    if (options.fim_rate > 0 && id >= streams[0]->info().vocab_size)
      return absl::InvalidArgumentError(absl::StrCat("fill-in-the-middle token ", id,
                                                     " is not in the vocabulary of ",
                                                     streams[0]->info().vocab_size, " tokens"));
  return std::make_unique<TrainingSource>(options, std::move(streams), weights_text, weights);
}

absl::StatusOr<std::unique_ptr<BatchSource>> MakeSequentialSource(
    const std::vector<std::string>& paths, int sequence_length, const std::string& tokenizer_hash) {
  if (sequence_length < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("sequence length ", sequence_length, ", wanted at least 1"));
  ASSIGN_OR_RETURN(auto stream, TokenStream::Open(paths, tokenizer_hash));
  RETURN_IF_ERROR(CheckLongEnough(*stream, paths[0], 2));
  std::vector<std::unique_ptr<TokenStream>> streams;
  streams.push_back(std::move(stream));
  return std::make_unique<SequentialSource>(std::move(streams), sequence_length, "");
}

}  // namespace sluice::data
