// A file system in memory that knows what a power failure would leave: for tests of everything that
// saves. POSIX's promises and not more: contents survive after Sync, directory entries after
// SyncDirectory of their directory, a rename is atomic.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoints/file_system.h"

namespace sluice::checkpoints {

enum class PowerFailure : uint8_t {
  kKeepsAll,       // only the process died: everything written is there
  kLosesUnsynced,  // nothing is there that was not synced
  kLosesSome,      // of all that was not synced, some at random
};

class MemoryFileSystem : public FileSystem {  // any thread
 public:
  // Files may hold `capacity_bytes` together. "/" exists.
  explicit MemoryFileSystem(int64_t capacity_bytes = int64_t{1} << 40);
  ~MemoryFileSystem() override;

  absl::StatusOr<std::unique_ptr<WritableFile>> CreateFile(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenFile(const std::string& path) override;
  absl::Status MakeDirectory(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) override;
  absl::Status SyncDirectory(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status RemoveFile(const std::string& path) override;
  absl::Status RemoveDirectory(const std::string& path) override;
  absl::StatusOr<int64_t> FreeBytes(const std::string& path) override;

  // What the next start finds. No file may be open for writing any more. kLosesSome: each directory
  // operation since the directory's last sync happened or not; each unsynced 512-byte sector is
  // there, is zero, is garbage, or the file ends before it; all decided by `seed`.
  void Crash(PowerFailure failure, uint64_t seed = 0);

  // Makes everything durable.
  void SyncAll();
  // Paths of all files, sorted.
  std::vector<std::string> Files() const;
  // Contents as they are now; the file must exist. Overwriting is durable at once.
  std::string Contents(const std::string& path) const;
  void Overwrite(const std::string& path, std::string contents);

 private:
  struct Node;
  struct DirectoryOperation;
  class Writable;
  class Readable;
  using NodePointer = std::shared_ptr<Node>;  // shared by entries, durable entries and open files

  NodePointer Find(const std::string& path) const;
  absl::StatusOr<NodePointer> ParentOf(const std::string& path) const;
  int64_t UsedBytes() const;
  void CrashNode(Node& node, PowerFailure failure, uint64_t& seed);

  const int64_t capacity_bytes_;
  mutable std::mutex mutex_;
  NodePointer root_;
};

}  // namespace sluice::checkpoints
