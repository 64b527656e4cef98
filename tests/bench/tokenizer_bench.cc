// Encoding speed on one core: megabytes of text a second.
//
//   tokenizer_bench TOKENIZER_JSON TEXT_FILE...
//
// Each text is encoded whole, as a document of a corpus is: once by a tokenizer that has seen
// nothing (MB/s first), then again and again, with a cache of words that is warm, as in a long
// corpus.
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "data/mapped_file.h"
#include "data/tokenizer.h"
#include "tests/bench/timing.h"

namespace sluice::bench {
namespace {

int Run(const std::vector<std::string>& paths) {
  PrintEnvironment();
  std::printf("%-40s %10s %10s %10s %8s   %s\n", "text", "bytes", "tokens", "MB/s first", "MB/s",
              "wanted");
  for (size_t i = 1; i < paths.size(); ++i) {
    const auto tokenizer = data::LoadTokenizer(paths[0]);
    if (!tokenizer.ok()) {
      std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
      return 1;
    }
    const auto text = data::ReadWholeFile(paths[i]);
    if (!text.ok()) {
      std::fprintf(stderr, "%s\n", text.status().ToString().c_str());
      return 1;
    }
    const auto start = std::chrono::steady_clock::now();
    size_t tokens = (*tokenizer)->Encode(*text).size();
    const std::chrono::duration<double> first = std::chrono::steady_clock::now() - start;
    const double megabytes = static_cast<double>(text->size()) / 1e6;
    const std::vector<double> seconds =
        TimeInTurns({[&] { tokens = (*tokenizer)->Encode(*text).size(); }}, {});
    std::printf("%-40s %10zu %10zu %10.1f %8.1f   20, better 40\n", paths[i].c_str(), text->size(),
                tokens, megabytes / first.count(), megabytes / seconds[0]);
  }
  return 0;
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s TOKENIZER_JSON TEXT_FILE...\n", argv[0]);
    return 2;
  }
  return sluice::bench::Run(std::vector<std::string>(argv + 1, argv + argc));
}
