// A shared library that is loaded when it is asked for.
#pragma once

#include <dlfcn.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace sluice::kernels::vendor {

class Library {
 public:
  // The first of `names` that the loader finds, for good: such libraries have threads of their own.
  // FAILED_PRECONDITION begins with `what` and has why each could not be.
  static absl::StatusOr<Library> Load(const std::string& what,
                                      const std::vector<std::string>& names) {
    std::string tried;
    for (const std::string& name : names) {
      if (void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return Library(name, handle);
      const char* why = dlerror();
      absl::StrAppend(&tried, tried.empty() ? "" : "; ", why == nullptr ? name : why);
    }
    return absl::FailedPreconditionError(
        absl::StrCat(what, ": the library cannot be loaded (", tried,
                     "); install it or put its folder into LD_LIBRARY_PATH"));
  }

  template <typename Function>
  absl::Status Find(const char* symbol, Function* function) const {
    *function = reinterpret_cast<Function>(dlsym(handle_, symbol));
    if (*function != nullptr) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(name_, ": has no ", symbol));
  }

 private:
  Library(std::string name, void* handle) : name_(std::move(name)), handle_(handle) {}

  std::string name_;
  void* handle_;
};

}  // namespace sluice::kernels::vendor
