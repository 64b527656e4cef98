#include "tests/heap/heap_counter.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>

namespace sluice::testing {
namespace {

struct Counters {
  std::atomic<int64_t> calls{0}, bytes{0}, large{0}, largest{0}, mappings{0};
};
constinit Counters counters;

void Count(size_t size) {
  const auto bytes = static_cast<int64_t>(size);
  counters.calls.fetch_add(1, std::memory_order_relaxed);
  counters.bytes.fetch_add(bytes, std::memory_order_relaxed);
  if (bytes >= kLargeHeapBytes) counters.large.fetch_add(1, std::memory_order_relaxed);
  int64_t seen = counters.largest.load(std::memory_order_relaxed);
  while (bytes > seen && !counters.largest.compare_exchange_weak(seen, bytes)) {
  }
}

}  // namespace

HeapUse TakeHeapUse() {
  return {.calls = counters.calls.exchange(0),
          .bytes = counters.bytes.exchange(0),
          .large = counters.large.exchange(0),
          .largest = counters.largest.exchange(0),
          .mappings = counters.mappings.exchange(0)};
}

HeapUse MaxOf(const HeapUse& a, const HeapUse& b) {
  return {.calls = std::max(a.calls, b.calls),
          .bytes = std::max(a.bytes, b.bytes),
          .large = std::max(a.large, b.large),
          .largest = std::max(a.largest, b.largest),
          .mappings = std::max(a.mappings, b.mappings)};
}

}  // namespace sluice::testing

// The program's own definitions go before those of the C library, whose true names stay reachable.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t bytes) {
  sluice::testing::Count(bytes);
  return __libc_malloc(bytes);
}
void* calloc(size_t n, size_t bytes) {
  sluice::testing::Count(n * bytes);
  return __libc_calloc(n, bytes);
}
void* realloc(void* old, size_t bytes) {
  sluice::testing::Count(bytes);
  return __libc_realloc(old, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  sluice::testing::Count(bytes);
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** out, size_t alignment, size_t bytes) {
  sluice::testing::Count(bytes);
  *out = __libc_memalign(alignment, bytes);
  return *out == nullptr ? ENOMEM : 0;
}
void* mmap(void* address, size_t bytes, int protection, int flags, int file, off_t offset) {
  using Map = void* (*)(void*, size_t, int, int, int, off_t);
  static const Map real = reinterpret_cast<Map>(dlsym(RTLD_NEXT, "mmap"));
  sluice::testing::counters.mappings.fetch_add(1, std::memory_order_relaxed);
  return real(address, bytes, protection, flags, file, offset);
}
}
