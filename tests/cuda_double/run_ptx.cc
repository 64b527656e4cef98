#include "tests/cuda_double/run_ptx.h"

#include <cstring>

#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/run_launch.h"
#include "tests/cuda_double/ptx/parser.h"

namespace sluice::cuda_double {

PtxProgram::PtxProgram(const std::string& body, int num_parameters,
                       const std::string& declarations) {
  std::string text =
      ".version 9.0\n.target sm_90a\n.address_size 64\n" + declarations + "\n.visible .entry test(";
  for (int i = 0; i < num_parameters; ++i) {
    text += (i == 0 ? ".param .u64 p" : ", .param .u64 p") + std::to_string(i);
  }
  text +=
      ")\n{\n.reg .pred %p<10>;\n.reg .b16 %h<10>;\n.reg .b32 %r<20>;\n.reg .b64 %rd<20>;\n"
      ".reg .f32 %f<10>;\n.reg .f64 %fd<10>;\n" +
      body + "\nret;\n}\n";
  error_ = ParseModule(text, module_);
  if (!error_.empty()) return;
  Kernel& kernel = *module_.kernels.at("test");
  error_ = Decode(kernel);
  launch = {.module = &module_, .kernel = &kernel, .block = {32, 1, 1}, .memory = &memory_};
}

std::string PtxProgram::Run(const std::vector<uint64_t>& parameters) {
  if (!error_.empty()) return error_;
  launch.parameters.resize(parameters.size() * sizeof(uint64_t));
  if (!parameters.empty()) {
    std::memcpy(launch.parameters.data(), parameters.data(), launch.parameters.size());
  }
  if (launch.op == 0) launch.op = clocks_.Add(kHostTimeline, "test");
  return RunLaunch(launch);
}

uint64_t PtxProgram::Allocate(size_t bytes) {
  return reinterpret_cast<uint64_t>(memory_.Allocate(bytes, MemoryKind::kDevice));
}

uint64_t PtxProgram::AllocateAndFill(const std::vector<uint32_t>& words) {
  const size_t bytes = words.size() * sizeof(uint32_t);
  const uint64_t address = Allocate(bytes);
  std::memcpy(reinterpret_cast<void*>(address), words.data(), bytes);
  const OpId op = clocks_.Add(kHostTimeline, "filling");
  memory_.Touch(address, bytes, AccessKind::kWrite, {.op = op, .block = 1});
  return address;
}

uint32_t PtxProgram::WordAt(uint64_t address) const {
  uint32_t word;
  std::memcpy(&word, reinterpret_cast<const void*>(address), sizeof word);
  return word;
}

}  // namespace sluice::cuda_double
