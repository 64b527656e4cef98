#include "tests/cuda/planted.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace sluice::testing {

const char kSpillingKernel[] = R"(
__global__ void __launch_bounds__(1024) planted_kernel(float* x) {
  float v[200];
#pragma unroll
  for (int i = 0; i < 200; ++i) v[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 200; ++i) x[i * 1024 + threadIdx.x] = v[(i * 7) % 200] * v[199 - i];
}
)";

const char kSerialisedKernel[] = R"(
__device__ void Multiply(float (&d)[4], unsigned long long a, unsigned long long b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
               "{%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b));
}
__global__ void __launch_bounds__(128) planted_kernel(float* x, unsigned long long a,
                                                      unsigned long long b) {
  float d[4] = {};
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  Multiply(d, a, b);
  d[0] *= x[4];
  Multiply(d, a, b);
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  for (int i = 0; i < 4; ++i) x[4 * threadIdx.x + i] = d[i];
}
)";

PlantedCubin::PlantedCubin(const std::string& name, const char* source)
    : base_((std::filesystem::path(SLUICE_REPORTS) / name).string()) {
  std::ofstream(base_ + ".cu") << source;
  const std::string command = std::string(SLUICE_NVCC) + " -cubin -arch=sm_90a -Xptxas -v -o " +
                              path() + " " + base_ + ".cu 2> " + base_ + ".text";
  is_compiled_ = std::system(command.c_str()) == 0;
  std::ostringstream text;
  text << std::ifstream(base_ + ".text").rdbuf();
  report_ = text.str();
}

PlantedCubin::~PlantedCubin() {
  for (const char* suffix : {".cu", ".cubin", ".text"}) std::filesystem::remove(base_ + suffix);
}

}  // namespace sluice::testing
