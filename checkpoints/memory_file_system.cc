#include "checkpoints/memory_file_system.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/core/check.h"
#include "kernels/core/philox.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

uint32_t NextRandom(uint64_t& seed) {
  return Philox(PhiloxKey(0, RandomPurpose::kTest), seed++)[0] >> 3;
}

std::string NameIn(const std::string& path) { return path.substr(path.rfind('/') + 1); }

absl::Status NotFound(absl::string_view operation, const std::string& path) {
  return absl::NotFoundError(absl::StrCat(operation, " ", path, ": No such file or directory"));
}

}  // namespace

struct MemoryFileSystem::DirectoryOperation {
  std::string removed;  // a name that goes, or empty
  std::string added;    // a name that comes, or empty; both: a rename
  NodePointer node;

  void ApplyTo(std::map<std::string, NodePointer>& entries) const {
    if (!removed.empty()) entries.erase(removed);
    if (!added.empty()) entries[added] = node;
  }
};

struct MemoryFileSystem::Node {
  bool is_directory = false;
  // A file: only appended to, so what is durable is a prefix.
  std::string contents;
  size_t durable_bytes = 0;
  // A directory.
  std::map<std::string, NodePointer> entries, durable_entries;
  std::vector<DirectoryOperation> unsynced;

  void Do(DirectoryOperation operation) {
    operation.ApplyTo(entries);
    unsynced.push_back(std::move(operation));
  }
};

class MemoryFileSystem::Writable : public WritableFile {
 public:
  Writable(MemoryFileSystem& owner, NodePointer node, std::string path)
      : owner_(owner), node_(std::move(node)), path_(std::move(path)) {}

  absl::StatusOr<int64_t> Write(absl::string_view bytes) override {
    const std::lock_guard<std::mutex> lock(owner_.mutex_);
    const int64_t room = owner_.capacity_bytes_ - owner_.UsedBytes();
    if (room <= 0 && !bytes.empty())
      return absl::ResourceExhaustedError(absl::StrCat("write ", path_, ": No space left"));
    bytes = bytes.substr(0, static_cast<size_t>(room));
    node_->contents.append(bytes.data(), bytes.size());
    return static_cast<int64_t>(bytes.size());
  }
  absl::Status Sync() override {
    const std::lock_guard<std::mutex> lock(owner_.mutex_);
    node_->durable_bytes = node_->contents.size();
    return absl::OkStatus();
  }
  absl::Status Close() override { return absl::OkStatus(); }

 private:
  MemoryFileSystem& owner_;
  const NodePointer node_;
  const std::string path_;
};

class MemoryFileSystem::Readable : public ReadableFile {
 public:
  Readable(MemoryFileSystem& owner, NodePointer node) : owner_(owner), node_(std::move(node)) {}

  absl::StatusOr<int64_t> Read(int64_t offset, std::span<char> out) override {
    const std::lock_guard<std::mutex> lock(owner_.mutex_);
    const int64_t rest = static_cast<int64_t>(node_->contents.size()) - offset;
    const int64_t bytes = std::clamp<int64_t>(rest, 0, static_cast<int64_t>(out.size()));
    if (bytes > 0)
      std::memcpy(out.data(), node_->contents.data() + offset, static_cast<size_t>(bytes));
    return bytes;
  }
  absl::StatusOr<int64_t> Size() override {
    const std::lock_guard<std::mutex> lock(owner_.mutex_);
    return static_cast<int64_t>(node_->contents.size());
  }

 private:
  MemoryFileSystem& owner_;
  const NodePointer node_;
};

MemoryFileSystem::MemoryFileSystem(int64_t capacity_bytes)
    : capacity_bytes_(capacity_bytes), root_(std::make_shared<Node>()) {
  root_->is_directory = true;
}
MemoryFileSystem::~MemoryFileSystem() = default;

MemoryFileSystem::NodePointer MemoryFileSystem::Find(const std::string& path) const {
  NodePointer node = root_;
  for (absl::string_view name : absl::StrSplit(path, '/', absl::SkipEmpty())) {
    if (!node->is_directory) return nullptr;
    const auto found = node->entries.find(std::string(name));
    if (found == node->entries.end()) return nullptr;
    node = found->second;
  }
  return node;
}

absl::StatusOr<MemoryFileSystem::NodePointer> MemoryFileSystem::ParentOf(
    const std::string& path) const {
  NodePointer parent = Find(ParentPath(path));
  if (parent == nullptr || !parent->is_directory) return NotFound("find the parent of", path);
  return parent;
}

absl::StatusOr<std::unique_ptr<WritableFile>> MemoryFileSystem::CreateFile(
    const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ASSIGN_OR_RETURN(const NodePointer parent, ParentOf(path));
  const std::string name = NameIn(path);
  if (parent->entries.contains(name))
    return absl::AlreadyExistsError(absl::StrCat("create ", path, ": File exists"));
  NodePointer node = std::make_shared<Node>();
  parent->Do({.removed = "", .added = name, .node = node});
  return std::make_unique<Writable>(*this, std::move(node), path);
}

absl::StatusOr<std::unique_ptr<ReadableFile>> MemoryFileSystem::OpenFile(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  NodePointer node = Find(path);
  if (node == nullptr || node->is_directory) return NotFound("open", path);
  return std::make_unique<Readable>(*this, std::move(node));
}

absl::Status MemoryFileSystem::MakeDirectory(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ASSIGN_OR_RETURN(const NodePointer parent, ParentOf(path));
  const std::string name = NameIn(path);
  if (parent->entries.contains(name))
    return absl::AlreadyExistsError(absl::StrCat("mkdir ", path, ": File exists"));
  NodePointer node = std::make_shared<Node>();
  node->is_directory = true;
  parent->Do({.removed = "", .added = name, .node = std::move(node)});
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> MemoryFileSystem::ListDirectory(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const NodePointer node = Find(path);
  if (node == nullptr || !node->is_directory) return NotFound("list", path);
  std::vector<std::string> names;
  for (const auto& [name, child] : node->entries) names.push_back(name);
  return names;
}

absl::Status MemoryFileSystem::SyncDirectory(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const NodePointer node = Find(path);
  if (node == nullptr || !node->is_directory) return NotFound("fsync", path);
  node->durable_entries = node->entries;
  node->unsynced.clear();
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::Rename(const std::string& from, const std::string& to) {
  const std::lock_guard<std::mutex> lock(mutex_);
  CHECK_EQ(ParentPath(from), ParentPath(to));
  const NodePointer node = Find(from);
  if (node == nullptr) return NotFound("rename", from);
  ASSIGN_OR_RETURN(const NodePointer parent, ParentOf(from));
  parent->Do({.removed = NameIn(from), .added = NameIn(to), .node = node});
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::RemoveFile(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const NodePointer node = Find(path);
  if (node == nullptr || node->is_directory) return NotFound("remove", path);
  ASSIGN_OR_RETURN(const NodePointer parent, ParentOf(path));
  parent->Do({.removed = NameIn(path), .added = "", .node = nullptr});
  return absl::OkStatus();
}

absl::Status MemoryFileSystem::RemoveDirectory(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const NodePointer node = Find(path);
  if (node == nullptr || !node->is_directory) return NotFound("remove", path);
  if (!node->entries.empty())
    return absl::FailedPreconditionError(absl::StrCat("remove ", path, ": not empty"));
  ASSIGN_OR_RETURN(const NodePointer parent, ParentOf(path));
  parent->Do({.removed = NameIn(path), .added = "", .node = nullptr});
  return absl::OkStatus();
}

absl::StatusOr<int64_t> MemoryFileSystem::FreeBytes(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (Find(path) == nullptr) return NotFound("statvfs", path);
  return capacity_bytes_ - UsedBytes();
}

int64_t MemoryFileSystem::UsedBytes() const {
  int64_t bytes = 0;
  std::vector<const Node*> rest = {root_.get()};
  while (!rest.empty()) {
    const Node* node = rest.back();
    rest.pop_back();
    bytes += static_cast<int64_t>(node->contents.size());
    for (const auto& [name, child] : node->entries) rest.push_back(child.get());
  }
  return bytes;
}

void MemoryFileSystem::Crash(PowerFailure failure, uint64_t seed) {
  const std::lock_guard<std::mutex> lock(mutex_);
  CrashNode(*root_, failure, seed);
}

void MemoryFileSystem::CrashNode(Node& node, PowerFailure failure, uint64_t& seed) {
  if (failure == PowerFailure::kLosesUnsynced) {
    node.contents.resize(node.durable_bytes);
    node.entries = node.durable_entries;
  } else if (failure == PowerFailure::kLosesSome) {
    constexpr size_t kSector = 512;
    for (size_t begin = node.durable_bytes; begin < node.contents.size();) {
      const size_t end = std::min(node.contents.size(), (begin / kSector + 1) * kSector);
      const uint32_t fate = NextRandom(seed) % 4;
      if (fate == 0) node.contents.resize(begin);
      for (size_t i = begin; fate >= 2 && i < end; ++i)
        node.contents[i] = fate == 2 ? '\0' : static_cast<char>(NextRandom(seed));
      begin = end;
    }
    node.entries = node.durable_entries;
    for (const DirectoryOperation& operation : node.unsynced) {
      if (NextRandom(seed) % 2 == 0) operation.ApplyTo(node.entries);
    }
  }
  node.durable_bytes = node.contents.size();
  node.durable_entries = node.entries;
  node.unsynced.clear();
  for (const auto& [name, child] : node.entries) CrashNode(*child, failure, seed);
}

void MemoryFileSystem::SyncAll() { Crash(PowerFailure::kKeepsAll); }

std::vector<std::string> MemoryFileSystem::Files() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::string> paths;
  std::vector<std::pair<std::string, const Node*>> rest = {{"", root_.get()}};
  while (!rest.empty()) {
    const auto [path, node] = std::move(rest.back());
    rest.pop_back();
    if (!node->is_directory) paths.push_back(path);
    for (const auto& [name, child] : node->entries)
      rest.emplace_back(absl::StrCat(path, "/", name), child.get());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::string MemoryFileSystem::Contents(const std::string& path) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const NodePointer node = Find(path);
  CHECK(node != nullptr) << path;
  return node->contents;
}

void MemoryFileSystem::Overwrite(const std::string& path, std::string contents) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const NodePointer node = Find(path);
  CHECK(node != nullptr) << path;
  node->durable_bytes = contents.size();
  node->contents = std::move(contents);
}

}  // namespace sluice::checkpoints
