// A file system whose nth operation goes wrong: for tests that try every n.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoints/file_system.h"

namespace sluice::checkpoints {

enum class FaultKind : uint8_t {
  kNone,
  kFail,         // the operation does nothing and returns the fault's status
  kFailAfter,    // it is done as well as it can be, but returns the fault's status
  kDieBefore,    // the process dies before it: this and every later operation returns CANCELLED
  kDieAfter,     // it is done, then the process dies
  kSkip,         // it does nothing and returns OK; only for operations that return no object
  kShort,        // a Write or Read moves at most one byte
  kInterrupted,  // a Write or Read returns ABORTED once
};

struct Fault {
  FaultKind kind = FaultKind::kNone;
  int64_t operation = 0;  // counted from 0
  absl::Status status;    // for kFail, kFailAfter
};

class FaultyFileSystem : public FileSystem {  // any thread
 public:
  explicit FaultyFileSystem(FileSystem& files, Fault fault = {}) : files_(files), fault_(fault) {}

  absl::StatusOr<std::unique_ptr<WritableFile>> CreateFile(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenFile(const std::string& path) override;
  absl::Status MakeDirectory(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) override;
  absl::Status SyncDirectory(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status RemoveFile(const std::string& path) override;
  absl::Status RemoveDirectory(const std::string& path) override;
  absl::StatusOr<int64_t> FreeBytes(const std::string& path) override;

  // The operations so far, such as "sync /c/step-0000000001-a/rank-00000.shard".
  std::vector<std::string> operations() const;
  int64_t num_operations() const;
  bool is_dead() const;

 private:
  class Writable;
  class Readable;
  // Counts the operation and runs it as the fault wants.
  absl::Status Run(const std::string& operation, const std::function<absl::Status()>& body);
  // What this operation should suffer.
  FaultKind Next(const std::string& operation);
  absl::StatusOr<int64_t> Transfer(const std::string& operation, int64_t bytes,
                                   const std::function<absl::StatusOr<int64_t>(int64_t)>& body);

  FileSystem& files_;
  const Fault fault_;
  mutable std::mutex mutex_;
  std::vector<std::string> operations_;
  bool is_dead_ = false;
};

}  // namespace sluice::checkpoints
