// Vocabulary and token files of a run, made on first use from its text.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "data/data.pb.h"

namespace sluice::trainer {

struct PreparedData {
  std::string tokenizer;  // path of a tokenizer.json
  // Token files, in the order of the configuration: of data.train and data.validation, or of
  // data.sft and data.sft_validation where those are given (their loss masks lie beside them).
  std::vector<std::string> train, validation;
  bool sft_train = false, sft_validation = false;
};

// Makes what is missing under config.cache_dir and says so through `print` (may be null). Token
// files are made once for a text's path and size and the tokenizer. Errors as data's; NOT_FOUND
// names the field; DATA_LOSS: a token file of the configuration is damaged.
absl::StatusOr<PreparedData> PrepareData(const data::DataConfig& config, int num_threads,
                                         const std::function<void(const std::string&)>& print);

}  // namespace sluice::trainer
