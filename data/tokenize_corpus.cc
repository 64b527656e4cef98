#include "data/tokenize_corpus.h"

#include <chrono>
#include <future>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "data/mapped_file.h"
#include "data/text_files.h"
#include "data/token_file.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/thread_pool.h"

namespace sluice::data {
namespace {

constexpr int64_t kWaveBytesPerThread = 2 << 20;

// One wave of documents after the other: while a wave is worked on, the next is read.
class CorpusLoop {
 public:
  static absl::StatusOr<std::unique_ptr<CorpusLoop>> Create(const CorpusOptions& options) {
    if (options.num_threads < 1)
      return absl::InvalidArgumentError(
          absl::StrCat("reading text with ", options.num_threads, " threads; wanted at least 1"));
    ASSIGN_OR_RETURN(std::vector<TextFile> files, FindTextFiles(options.inputs));
    return std::make_unique<CorpusLoop>(options, std::move(files));
  }

  CorpusLoop(const CorpusOptions& options, std::vector<TextFile> files)
      : options_(options), reader_(std::move(files)), pool_(options.num_threads) {}

  kernels::ThreadPool& pool() { return pool_; }
  CorpusResult& result() { return result_; }

  // Calls work(texts) for each wave; texts are not empty and in order.
  template <typename Work>
  absl::Status Run(const Work& work) {
    const auto read = [this]() -> absl::StatusOr<Wave> {
      Wave wave;
      RETURN_IF_ERROR(
          reader_.ReadSome(kWaveBytesPerThread * options_.num_threads, &wave.raw).status());
      wave.bytes_done = reader_.stored_bytes_read();
      return wave;
    };
    std::future<absl::StatusOr<Wave>> next = std::async(std::launch::async, read);
    while (true) {
      ASSIGN_OR_RETURN(Wave wave, next.get());
      if (wave.raw.empty()) break;
      next = std::async(std::launch::async, read);
      ASSIGN_OR_RETURN(const std::vector<std::string> texts, Extract(std::move(wave.raw)));
      RETURN_IF_ERROR(work(texts));
      Report(wave.bytes_done);
    }
    if (result_.documents == 0)
      return absl::InvalidArgumentError(
          absl::StrCat("there is no text in '", absl::StrJoin(options_.inputs, "', '"), "'"));
    return absl::OkStatus();
  }

  CorpusResult Finish() {
    Report(reader_.stored_bytes_total());
    return result_;
  }

 private:
  struct Wave {
    std::vector<RawDocument> raw;
    int64_t bytes_done = 0;
  };

  absl::StatusOr<std::vector<std::string>> Extract(std::vector<RawDocument> raw) {
    std::vector<absl::StatusOr<DocumentText>> extracted(raw.size());
    pool_.ParallelFor(static_cast<int64_t>(raw.size()), [&](int64_t i) {
      const auto at = static_cast<size_t>(i);
      const TextFile& file = reader_.files()[static_cast<size_t>(raw[at].file)];
      extracted[at] = ExtractText(std::move(raw[at]), file, options_.strict);
    });
    std::vector<std::string> texts;
    for (auto& document : extracted) {
      RETURN_IF_ERROR(document.status());  // of the first that failed
      result_.num_replaced += document->num_replaced;
      if (document->text.empty()) {
        ++result_.empty_documents;
        continue;
      }
      ++result_.documents;
      result_.text_bytes += static_cast<int64_t>(document->text.size());
      texts.push_back(std::move(document->text));
    }
    return texts;
  }

  void Report(int64_t bytes_done) {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
    result_.seconds = elapsed.count();
    if (options_.progress)
      options_.progress({.bytes_done = bytes_done,
                         .bytes_total = reader_.stored_bytes_total(),
                         .documents = result_.documents,
                         .text_bytes = result_.text_bytes,
                         .tokens = result_.tokens,
                         .seconds = result_.seconds});
  }

  const CorpusOptions options_;
  DocumentReader reader_;  // used by the reading thread while a wave is on its way
  kernels::ThreadPool pool_;
  CorpusResult result_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

absl::StatusOr<CorpusResult> TokenizeCorpus(const CorpusOptions& options,
                                            const Tokenizer& tokenizer, const std::string& output) {
  ASSIGN_OR_RETURN(const auto loop, CorpusLoop::Create(options));
  ASSIGN_OR_RETURN(const auto writer,
                   TokenFileWriter::Create(output, {.vocab_size = tokenizer.vocab_size(),
                                                    .eos_id = tokenizer.eos_id(),
                                                    .tokenizer_hash = tokenizer.hash()}));
  RETURN_IF_ERROR(loop->Run([&](const std::vector<std::string>& texts) -> absl::Status {
    std::vector<std::vector<int32_t>> ids(texts.size());
    loop->pool().ParallelFor(static_cast<int64_t>(texts.size()), [&](int64_t i) {
      const auto at = static_cast<size_t>(i);
      ids[at] = tokenizer.Encode(texts[at], {.added_tokens = options.added_tokens});
      if (tokenizer.eos_id() >= 0) ids[at].push_back(tokenizer.eos_id());
    });
    for (size_t i = 0; i < texts.size(); ++i) {
      RETURN_IF_ERROR(writer->AddDocument(ids[i], static_cast<int64_t>(texts[i].size())));
      loop->result().tokens += static_cast<int64_t>(ids[i].size());
    }
    return absl::OkStatus();
  }));
  RETURN_IF_ERROR(writer->Finish());
  return loop->Finish();
}

absl::StatusOr<CorpusResult> TrainVocabulary(const CorpusOptions& options,
                                             const BpeTrainOptions& train,
                                             const std::string& output) {
  ASSIGN_OR_RETURN(const auto loop, CorpusLoop::Create(options));
  BpeTrainOptions threaded = train;
  threaded.num_threads = options.num_threads;
  ASSIGN_OR_RETURN(const auto trainer, BpeTrainer::Create(threaded));
  RETURN_IF_ERROR(loop->Run([&](const std::vector<std::string>& texts) {
    trainer->Add(texts);
    return absl::OkStatus();
  }));
  ASSIGN_OR_RETURN(const std::string json, trainer->Train());
  RETURN_IF_ERROR(WriteWholeFile(output, json));
  ASSIGN_OR_RETURN(const auto made, LoadTokenizer(output));
  loop->result().vocab_size = made->vocab_size();
  return loop->Finish();
}

}  // namespace sluice::data
