#include "kernels/core/check.h"

#include <atomic>
#include <cstdio>

namespace sluice {
namespace {
std::atomic<int> rank_for_messages{-1};
}  // namespace

void SetRankForCheckFailures(int rank) { rank_for_messages = rank; }

CheckFailure::CheckFailure(const char* file, int line, const std::string& what) {
  message_ << file << ":" << line << ": CHECK failed";
  if (rank_for_messages >= 0) message_ << " on rank " << rank_for_messages;
  message_ << ": " << what << " ";
}

CheckFailure::~CheckFailure() {
  std::fprintf(stderr, "%s\n", message_.str().c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace sluice
