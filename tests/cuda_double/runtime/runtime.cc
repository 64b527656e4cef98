#include "tests/cuda_double/runtime/runtime.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <tuple>

#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/run_launch.h"
#include "tests/cuda_double/ptx/fatbin.h"
#include "tests/cuda_double/ptx/parser.h"

namespace sluice::cuda_double {

Configuration ConfigurationOfEnvironment() {
  Configuration configuration;
  const auto value = [](const char* name) {
    const char* text = std::getenv(name);
    return std::string(text == nullptr ? "" : text);
  };
  const std::string timing = value("CUDA_DOUBLE_TIMING"), seed = value("CUDA_DOUBLE_SEED");
  if (timing == "early") configuration.timing = Timing::kEarly;
  if (timing == "late") configuration.timing = Timing::kLate;
  if (!seed.empty())
    configuration.seed = static_cast<uint32_t>(std::strtoul(seed.c_str(), nullptr, 10));
  if (value("CUDA_DOUBLE_ACCUMULATOR") == "h100") {
    configuration.accumulator = Accumulator::kH100;
  }
  return configuration;
}

Runtime& Runtime::Get() {
  static auto* const runtime = new Runtime;  // outlives whatever is destroyed at exit
  return *runtime;
}

namespace {

// In front of what keeps a kernel from running at all.
const char kCannotLoad[] = "cannot load: ";

// Names of kernels in anonymous namespaces hold hashes of their file:
// "_GLOBAL__N__68514f74_7_cast_cu_ ca9a3058". Without them a kernel compiled again has the same
// name.
std::string WithoutHashes(std::string name) {
  const std::string mark = "_GLOBAL__N__";
  const size_t at = name.find(mark), end = name.find("_cu_", at);
  constexpr size_t kHash = 8;
  if (at == name.npos || end == name.npos) return name;
  name.erase(end + 4, kHash);
  return name.erase(at + mark.size(), kHash);
}

}  // namespace

Runtime::Runtime() : memory_(clocks_) {
  Configure(ConfigurationOfEnvironment());
  CreateStream();  // the default stream
  LoadReplacements();
  if (const char* path = std::getenv("CUDA_DOUBLE_LAUNCHES")) {
    launches_ = std::make_unique<std::ofstream>(path, std::ios::app);
  }
  if (const char* path = std::getenv("CUDA_DOUBLE_ORDER")) {
    order_ = std::make_unique<std::ofstream>(path + ("." + std::to_string(getpid())));
  }
}

OpId Runtime::NewOp(const StreamState& stream, const std::string& name) {
  const OpId op = clocks_.Add(stream.timeline, name);
  if (order_ != nullptr) *order_ << clocks_.Describe(op) << std::endl;
  return op;
}

void Runtime::LoadReplacements() {
  const char* path = std::getenv("CUDA_DOUBLE_PTX");
  if (path == nullptr) return;
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  auto module = std::make_unique<Module>();
  const std::string error = ParseModule(text.str(), *module);
  if (!error.empty()) Break(cudaErrorInvalidPtx, kCannotLoad + error);
  for (const auto& [name, kernel] : module->kernels) {
    replacements_[WithoutHashes(name)] = {module.get(), kernel.get()};
  }
  modules_.push_back(std::move(module));
}

void Runtime::Configure(const Configuration& configuration) {
  configuration_ = configuration;
  random_.seed(configuration.seed);
  num_launches_ = 0;
}

void Runtime::RegisterFatBinary(const void* wrapper) {
  const std::string error = ReadFatBinary(wrapper, texts_);
  if (!error.empty()) Break(cudaErrorInvalidKernelImage, error);
}

void Runtime::RegisterFunction(const void* function, const char* name) {
  functions_[function].name = name;
}

cudaError_t Runtime::SetDynamicShared(const void* function, int bytes) {
  const auto found = functions_.find(function);
  if (found == functions_.end()) return Finish(cudaErrorInvalidDeviceFunction);
  if (bytes < 0 || static_cast<size_t>(bytes) > kMostSharedBytes) {
    return Finish(cudaErrorInvalidValue);
  }
  found->second.most_dynamic_shared = static_cast<size_t>(bytes);
  return Finish(cudaSuccess);
}

// Parses the module that holds the function, the first time one of its kernels is launched.
std::string Runtime::Load(Function& function) {
  const auto find = [&] {
    for (const auto& module : modules_) {
      const auto kernel = module->kernels.find(function.name);
      if (kernel == module->kernels.end()) continue;
      function.module = module.get();
      function.kernel = kernel->second.get();
    }
  };
  const auto replacement = replacements_.find(WithoutHashes(function.name));
  if (replacement != replacements_.end()) {
    std::tie(function.module, function.kernel) = replacement->second;
  } else {
    find();
  }
  const std::string entry = ".entry " + function.name + "(";
  for (std::string& text : texts_) {
    if (function.kernel != nullptr || text.find(entry) == text.npos) continue;
    auto module = std::make_unique<Module>();
    const std::string error = ParseModule(text, *module);
    if (!error.empty()) return error;
    modules_.push_back(std::move(module));
    text.clear();
    find();
  }
  if (function.kernel == nullptr)
    return function.name + ": the program holds no PTX of this kernel";
  return Decode(*function.kernel);
}

StreamState* Runtime::CreateStream() {
  streams_.push_back(std::make_unique<StreamState>());
  streams_.back()->timeline = clocks_.AddTimeline();
  return streams_.back().get();
}

void Runtime::DestroyStream(StreamState* stream) {
  // What it holds still runs; others may wait for it, so it stays.
  RunTo({stream, stream->num_enqueued});
}

StreamState* Runtime::Stream(cudaStream_t handle) {
  return handle == nullptr ? streams_.front().get() : reinterpret_cast<StreamState*>(handle);
}

cudaError_t Runtime::Enqueue(StreamState& stream, const std::string& name,
                             std::function<std::string(OpId)> work) {
  if (broken_ != cudaSuccess) return Finish(broken_);
  if (IsCapturing(stream)) {
    capture_.graph.nodes.push_back({.name = name, .work = std::move(work)});
    return Finish(cudaSuccess);
  }
  const OpId op = NewOp(stream, name);
  stream.queue.push_back({.run = [work = std::move(work), op] { return work(op); }});
  ++stream.num_enqueued;
  if (configuration_.timing == Timing::kEarly) TryRunTo({&stream, stream.num_enqueued});
  if (configuration_.timing == Timing::kRandom) RunSomeAtRandom();
  return Finish(cudaSuccess);
}

cudaError_t Runtime::EnqueueLaunch(const LaunchRequest& request) {
  const auto found = functions_.find(request.function);
  if (found == functions_.end()) return Finish(cudaErrorInvalidDeviceFunction);
  Function& function = found->second;
  if (function.kernel == nullptr) {
    const std::string error = Load(function);
    if (!error.empty()) {
      function.kernel = nullptr;
      return Break(cudaErrorInvalidPtx, kCannotLoad + error);
    }
  }
  if (request.shared_bytes > function.most_dynamic_shared) return Finish(cudaErrorInvalidValue);
  if (launches_ != nullptr) *launches_ << function.name << std::endl;
  Launch launch{.module = function.module,
                .kernel = function.kernel,
                .grid = request.grid,
                .block = request.block,
                .dynamic_shared_bytes = request.shared_bytes,
                .parameters = std::vector<uint8_t>(function.kernel->parameter_bytes),
                .memory = &memory_,
                .op = 0,
                .seed = configuration_.seed + 1000003u * ++num_launches_,
                .timing = configuration_.timing,
                .accumulator = configuration_.accumulator};
  for (size_t i = 0; i < function.kernel->parameters.size(); ++i) {
    const Parameter& parameter = function.kernel->parameters[i];
    std::memcpy(&launch.parameters[parameter.offset], request.arguments[i], parameter.bytes);
  }
  const std::string name =
      function.kernel->title + " (launch " + std::to_string(num_launches_) + ")";
  return Enqueue(*request.stream, name, [launch = std::move(launch)](OpId op) mutable {
    launch.op = op;
    return RunLaunch(launch);
  });
}

void Runtime::Record(EventState& event, StreamState& stream) {
  event.place = {&stream, stream.num_enqueued};
  event.snapshot = clocks_.Snapshot(stream.timeline);
}

void Runtime::Wait(StreamState& stream, const EventState& event) {
  if (event.place.stream == nullptr) return;  // never recorded: nothing to wait for
  clocks_.Join(stream.timeline, event.snapshot);
  stream.queue.push_back({.run = [] { return std::string(); }, .after = event.place});
  ++stream.num_enqueued;
}

bool Runtime::TryNext(StreamState& stream) {
  const Operation& next = stream.queue.front();
  if (next.after.stream != nullptr && !TryRunTo(next.after)) return false;
  if (broken_ == cudaSuccess && next.is_ready != nullptr && !next.is_ready()) return false;
  const Operation operation = std::move(stream.queue.front());
  stream.queue.pop_front();
  if (broken_ == cudaSuccess) {
    const std::string error = operation.run();
    if (!error.empty()) Break(cudaErrorLaunchFailure, error);
  }
  ++stream.num_done;
  return true;
}

bool Runtime::TryRunTo(const StreamPlace& place) {
  while (place.stream->num_done < place.count) {
    if (!TryNext(*place.stream)) return false;
  }
  return true;
}

void Runtime::RunSomeAtRandom() {
  for (const auto& stream : streams_) {
    const size_t count = random_() % (stream->queue.size() + 1);
    if (random_() % 2 == 0) TryRunTo({stream.get(), stream->num_done + count});
  }
}

cudaError_t Runtime::Synchronize(StreamState& stream) {
  if (no_waiting_ != nullptr) return Break(cudaErrorIllegalState, no_waiting_);
  RunTo({&stream, stream.num_enqueued});
  clocks_.Join(kHostTimeline, clocks_.Snapshot(stream.timeline));
  return Finish(cudaSuccess);
}

cudaError_t Runtime::SynchronizeAll() {
  for (const auto& stream : streams_) Synchronize(*stream);
  return Finish(cudaSuccess);
}

cudaError_t Runtime::Finish(cudaError_t code) {
  if (broken_ != cudaSuccess) code = broken_;
  if (code != cudaSuccess) last_error = code;
  return code;
}

cudaError_t Runtime::Break(cudaError_t code, const std::string& report) {
  if (broken_ == cudaSuccess) {
    broken_ = code;
    report_ = report;
    std::fprintf(stderr, "cuda double: %s\n", report.c_str());
  }
  return Finish(code);
}

void Runtime::ForgetErrors() {
  broken_ = cudaSuccess;
  last_error = cudaSuccess;
  report_.clear();
  capture_ = {};
}

}  // namespace sluice::cuda_double
