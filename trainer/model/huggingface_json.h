// A JSON object read key by key, with an account of every key: read, known to be irrelevant, or
// the reason for a refusal. The first refusal is remembered and reported at the end, so that
// parsing code is a list of keys.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::trainer {

class KeyReader {
 public:
  // INVALID_ARGUMENT: no JSON object, or a key that is there twice.
  static absl::StatusOr<KeyReader> Parse(absl::string_view json);
  KeyReader(KeyReader&&) noexcept;
  ~KeyReader();

  bool Has(const std::string& key) const;
  bool IsNull(const std::string& key) const;  // or not there

  // The value; without a default a missing or null key is refused. Integers may be written 1e6.
  int64_t Int(const char* key);
  int64_t Int(const char* key, int64_t otherwise);
  double Number(const char* key);
  double Number(const char* key, double otherwise);
  bool Bool(const char* key, bool otherwise);
  std::string Text(const char* key);
  std::string Text(const char* key, const std::string& otherwise);
  std::vector<int64_t> Ints(const char* key);  // empty when missing or null
  // A key that must have this value if it is there.
  void MustBe(const char* key, bool value);
  void MustBe(const char* key, int64_t value);
  void MustBe(const char* key, double value);
  void MustBe(const char* key, const std::string& value);
  void MustBeNull(const char* key);
  // Two keys (the second "parent.key") that must be equal where both are there.
  void MustAgree(const char* key, const char* other);

  void Ignore(const char* key, const char* why);
  void Refuse(const char* key, const std::string& wanted);

  // A nested object, and its account back.
  KeyReader Object(const char* key);
  void Finish(const KeyReader& nested);

  // A line a key, in the file's order; or the first refusal, or the first key nobody asked for.
  absl::StatusOr<std::vector<std::string>> Report() const;

 private:
  struct State;
  explicit KeyReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sluice::trainer
