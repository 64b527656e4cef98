// Hopper's own instructions: mbarriers, tensor copies (TMA), warpgroup matrix products, register
// hand-over. With ptx.cuh the only inline PTX of the project. Names and rules: PTX ISA 9.0,
// sections 9.7.13 (mbarrier), 9.7.9.27 (cp.async.bulk.tensor) and 9.7.15 (wgmma).
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

namespace sluice::kernels::cuda {

// --- mbarrier: a phase ends when all arrivals and all announced bytes are in.

__device__ inline void InitBarrier(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
               "r"(arrivals)
               : "memory");
}

// Makes initialised barriers known to the units that copy asynchronously.
__device__ inline void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ inline void ArriveAndExpect(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(bytes)
      : "memory");
}

__device__ inline void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}

// Of the lanes for which `arrives` holds; the warp does not part for it.
__device__ inline void ArriveIf(bool arrives, uint64_t* barrier) {
  asm volatile(
      "{\n"
      ".reg .pred arrives;\n"
      "setp.ne.b32 arrives, %1, 0;\n"
      "@arrives mbarrier.arrive.shared::cta.b64 _, [%0];\n"
      "}\n" ::"r"(SharedAddress(barrier)),
      "r"(static_cast<int>(arrives))
      : "memory");
}

// Waits for the end of the phase of that parity. A fresh barrier counts as past its phase 1.
__device__ inline void WaitForPhase(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over_%=;\n"
      "bra again_%=;\n"
      "over_%=:\n"
      "}\n" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

// --- TMA: one thread copies a box of a tensor; its bytes count on the barrier.

__device__ inline void PrefetchTensorMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// The box whose first element is at column x of row y. Outside of the tensor it reads zeros.
__device__ inline void CopyBox(void* shared, const CUtensorMap* map, int x, int y,
                               uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y)
      : "memory");
}

// The same in three dimensions: from column x of part y of row z on.
__device__ inline void CopyBox(void* shared, const CUtensorMap* map, int x, int y, int z,
                               uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

// --- wgmma: 128 threads multiply tiles that lie in shared memory.

__device__ inline void FenceWarpgroup() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void CommitWarpgroup() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most `kPending` committed groups are not done.
template <int kPending>
__device__ inline void WaitWarpgroup() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// The matrix descriptor of a K-major tile in rows of 128 bytes with the 128-byte swizzle; the
// tile's pattern starts at a multiple of 1024 bytes. Fields: PTX ISA 9.0, "Matrix Descriptor
// Format".
__device__ inline uint64_t TileDescriptor(const void* tile) {
  constexpr uint64_t kLeadingBytes = 16;   // not read for a swizzled K-major tile
  constexpr uint64_t kStrideBytes = 1024;  // from eight rows to the next eight
  constexpr uint64_t kSwizzle128 = 1;
  const uint64_t address = SharedAddress(tile) & 0x3ffffu;
  return address >> 4 | (kLeadingBytes >> 4) << 16 | (kStrideBytes >> 4) << 32 | kSwizzle128 << 62;
}

// The same for a transposed tile: 64 rows (of M or N) side by side in the 128 bytes of a k, each
// eight k a pattern; the next 64 rows are kLines k further on.
template <int kLines>
__device__ uint64_t TransposedDescriptor(const void* tile) {
  constexpr uint64_t kLeadingBytes = kLines * 128;  // from 64 rows to the next
  return (TileDescriptor(tile) & ~(uint64_t{0x3fff} << 16)) | (kLeadingBytes >> 4) << 16;
}

// The descriptor of a tile so many bytes further on. Only the lower half changes.
__device__ inline uint64_t MovedDescriptor(uint64_t descriptor, int bytes) {
  const uint32_t lower = static_cast<uint32_t>(descriptor) + (static_cast<uint32_t>(bytes) >> 4);
  return (descriptor & 0xffffffff00000000u) | lower;
}

// What this thread wrote to shared memory, wgmma and TMA see after the next barrier.
__device__ inline void FenceForTensorCores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The barrier of that number, for so many threads of the block. 0 is __syncthreads.
__device__ inline void SynchronizeThreads(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Counts as having come to that barrier, and goes on.
__device__ inline void PassBarrier(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// --- registers of a warpgroup: copying warps need few, multiplying ones many.

template <int kRegisters>
__device__ inline void KeepRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace sluice::kernels::cuda
