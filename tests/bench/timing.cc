#include "tests/bench/timing.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#include "kernels/cpu/target.h"

namespace sluice::bench {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double ThreadSeconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

constexpr int kMinRounds = 3;
constexpr double kLongSeconds = 0.03;  // so long that nothing needs warming before a sample

struct Sample {
  double seconds = 0, busy_share = 0;
};

double LowerQuartile(std::vector<Sample> samples, int threads) {
  std::sort(samples.begin(), samples.end(),
            [](const Sample& a, const Sample& b) { return a.busy_share > b.busy_share; });
  size_t keep = samples.size();
  while (threads > 1 && keep > 4 && samples[keep - 1].busy_share < 0.97) --keep;
  std::vector<double> seconds;
  for (size_t i = 0; i < keep; ++i) seconds.push_back(samples[i].seconds);
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 4];
}

std::string CpuModel() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

}  // namespace

std::vector<double> TimeInTurns(const std::vector<std::function<void()>>& runs,
                                const TimingOptions& options) {
  std::vector<int> repeats(runs.size(), 1);
  std::vector<bool> is_long(runs.size());
  std::vector<std::vector<Sample>> samples(runs.size());
  const double begin = Now();
  for (size_t i = 0; i < runs.size(); ++i) {
    double start = Now();
    runs[i]();
    double once = std::max(1e-7, Now() - start);
    is_long[i] = once > kLongSeconds;
    if (!is_long[i]) {
      start = Now();
      runs[i]();
      once = std::max(1e-7, Now() - start);
    }
    repeats[i] = std::clamp(static_cast<int>(options.seconds_per_sample / once), 1, 100000);
  }
  for (int round = 0; round < options.rounds; ++round) {
    if (round >= kMinRounds && Now() - begin > options.max_seconds) break;
    for (size_t i = 0; i < runs.size(); ++i) {
      if (options.threads > 1) std::this_thread::sleep_for(std::chrono::milliseconds(3));
      if (!is_long[i]) runs[i]();
      const double busy_start = ThreadSeconds(), start = Now();
      for (int r = 0; r < repeats[i]; ++r) runs[i]();
      const double seconds = Now() - start, busy = ThreadSeconds() - busy_start;
      const double counted = options.threads == 1 ? busy : seconds;
      samples[i].push_back({counted / repeats[i], busy / seconds});
    }
  }
  std::vector<double> seconds;
  for (auto& s : samples) seconds.push_back(LowerQuartile(std::move(s), options.threads));
  return seconds;
}

void PrintEnvironment() {
  double load = 0;
  if (getloadavg(&load, 1) != 1) load = -1;
  const auto target = kernels::cpu::TargetName();
  std::printf("%s, %u cores, load %.2f; %s; SIMD target %.*s\n", CpuModel().c_str(),
              std::thread::hardware_concurrency(), load, __VERSION__,
              static_cast<int>(target.size()), target.data());
#ifndef __OPTIMIZE__
  std::printf("WARNING: not optimised; the figures mean nothing\n");
#endif
  if (load > 0.5) std::printf("WARNING: the machine is busy; expect noise\n");
}

double GeometricMean(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += std::log(value);
  return values.empty() ? 0.0 : std::exp(sum / static_cast<double>(values.size()));
}

}  // namespace sluice::bench
