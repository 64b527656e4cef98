#include "checkpoints/faulty_file_system.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

absl::Status Dead() { return absl::CancelledError("the process is dead"); }

}  // namespace

class FaultyFileSystem::Writable : public WritableFile {
 public:
  Writable(FaultyFileSystem& owner, std::unique_ptr<WritableFile> file, std::string path)
      : owner_(owner), file_(std::move(file)), path_(std::move(path)) {}
  absl::StatusOr<int64_t> Write(absl::string_view bytes) override {
    return owner_.Transfer(
        absl::StrCat("write ", path_), static_cast<int64_t>(bytes.size()),
        [&](int64_t count) { return file_->Write(bytes.substr(0, static_cast<size_t>(count))); });
  }
  absl::Status Sync() override {
    return owner_.Run(absl::StrCat("sync ", path_), [&] { return file_->Sync(); });
  }
  absl::Status Close() override {
    return owner_.Run(absl::StrCat("close ", path_), [&] { return file_->Close(); });
  }

 private:
  FaultyFileSystem& owner_;
  const std::unique_ptr<WritableFile> file_;
  const std::string path_;
};

class FaultyFileSystem::Readable : public ReadableFile {
 public:
  Readable(FaultyFileSystem& owner, std::unique_ptr<ReadableFile> file, std::string path)
      : owner_(owner), file_(std::move(file)), path_(std::move(path)) {}
  absl::StatusOr<int64_t> Read(int64_t offset, std::span<char> out) override {
    return owner_.Transfer(
        absl::StrCat("read ", path_), static_cast<int64_t>(out.size()),
        [&](int64_t count) { return file_->Read(offset, out.first(static_cast<size_t>(count))); });
  }
  absl::StatusOr<int64_t> Size() override {
    int64_t size = 0;
    RETURN_IF_ERROR(owner_.Run(absl::StrCat("size ", path_), [&] {
      ASSIGN_OR_RETURN(size, file_->Size());
      return absl::OkStatus();
    }));
    return size;
  }

 private:
  FaultyFileSystem& owner_;
  const std::unique_ptr<ReadableFile> file_;
  const std::string path_;
};

FaultKind FaultyFileSystem::Next(const std::string& operation) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (is_dead_) return FaultKind::kDieBefore;
  const int64_t index = static_cast<int64_t>(operations_.size());
  operations_.push_back(operation);
  if (index != fault_.operation) return FaultKind::kNone;
  is_dead_ = fault_.kind == FaultKind::kDieBefore || fault_.kind == FaultKind::kDieAfter;
  return fault_.kind;
}

absl::Status FaultyFileSystem::Run(const std::string& operation,
                                   const std::function<absl::Status()>& body) {
  switch (Next(operation)) {
    case FaultKind::kFail:
      return fault_.status;
    case FaultKind::kFailAfter:
      body().IgnoreError();
      return fault_.status;
    case FaultKind::kDieBefore:
      return Dead();
    case FaultKind::kDieAfter:
      body().IgnoreError();
      return Dead();
    case FaultKind::kSkip:
      return absl::OkStatus();
    case FaultKind::kNone:
    case FaultKind::kShort:
    case FaultKind::kInterrupted:
      break;
  }
  return body();
}

absl::StatusOr<int64_t> FaultyFileSystem::Transfer(
    const std::string& operation, int64_t bytes,
    const std::function<absl::StatusOr<int64_t>(int64_t)>& body) {
  switch (Next(operation)) {
    case FaultKind::kFail:
      return fault_.status;
    case FaultKind::kFailAfter:
      body(bytes).IgnoreError();
      return fault_.status;
    case FaultKind::kDieBefore:
      return Dead();
    case FaultKind::kDieAfter:
      body(bytes).IgnoreError();
      return Dead();
    case FaultKind::kShort:
      return body(std::min<int64_t>(bytes, 1));
    case FaultKind::kInterrupted:
      return absl::AbortedError("interrupted");
    case FaultKind::kNone:
    case FaultKind::kSkip:
      break;
  }
  return body(bytes);
}

absl::StatusOr<std::unique_ptr<WritableFile>> FaultyFileSystem::CreateFile(
    const std::string& path) {
  std::unique_ptr<WritableFile> file;
  RETURN_IF_ERROR(Run(absl::StrCat("create ", path), [&] {
    ASSIGN_OR_RETURN(file, files_.CreateFile(path));
    return absl::OkStatus();
  }));
  return std::make_unique<Writable>(*this, std::move(file), path);
}

absl::StatusOr<std::unique_ptr<ReadableFile>> FaultyFileSystem::OpenFile(const std::string& path) {
  std::unique_ptr<ReadableFile> file;
  RETURN_IF_ERROR(Run(absl::StrCat("open ", path), [&] {
    ASSIGN_OR_RETURN(file, files_.OpenFile(path));
    return absl::OkStatus();
  }));
  return std::make_unique<Readable>(*this, std::move(file), path);
}

absl::Status FaultyFileSystem::MakeDirectory(const std::string& path) {
  return Run(absl::StrCat("mkdir ", path), [&] { return files_.MakeDirectory(path); });
}

absl::StatusOr<std::vector<std::string>> FaultyFileSystem::ListDirectory(const std::string& path) {
  std::vector<std::string> names;
  RETURN_IF_ERROR(Run(absl::StrCat("list ", path), [&] {
    ASSIGN_OR_RETURN(names, files_.ListDirectory(path));
    return absl::OkStatus();
  }));
  return names;
}

absl::Status FaultyFileSystem::SyncDirectory(const std::string& path) {
  return Run(absl::StrCat("sync ", path), [&] { return files_.SyncDirectory(path); });
}

absl::Status FaultyFileSystem::Rename(const std::string& from, const std::string& to) {
  return Run(absl::StrCat("rename ", from), [&] { return files_.Rename(from, to); });
}

absl::Status FaultyFileSystem::RemoveFile(const std::string& path) {
  return Run(absl::StrCat("remove ", path), [&] { return files_.RemoveFile(path); });
}

absl::Status FaultyFileSystem::RemoveDirectory(const std::string& path) {
  return Run(absl::StrCat("rmdir ", path), [&] { return files_.RemoveDirectory(path); });
}

absl::StatusOr<int64_t> FaultyFileSystem::FreeBytes(const std::string& path) {
  int64_t bytes = 0;
  RETURN_IF_ERROR(Run(absl::StrCat("free ", path), [&] {
    ASSIGN_OR_RETURN(bytes, files_.FreeBytes(path));
    return absl::OkStatus();
  }));
  return bytes;
}

std::vector<std::string> FaultyFileSystem::operations() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return operations_;
}

int64_t FaultyFileSystem::num_operations() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int64_t>(operations_.size());
}

bool FaultyFileSystem::is_dead() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return is_dead_;
}

}  // namespace sluice::checkpoints
