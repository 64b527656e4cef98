// Counts what this program takes from the heap and from the system, on all threads: every call of
// malloc, calloc, realloc, aligned_alloc, posix_memalign (and so of new) and of mmap. Linking
// heap_counter.cc puts its definitions before those of the C library, so it belongs to programs of
// its own, and to none with a sanitizer.
#pragma once

#include <cstdint>

namespace sluice::testing {

// What is large is what a buffer of a step would be, and no string, line or row of metrics.
inline constexpr int64_t kLargeHeapBytes = int64_t{64} << 10;

struct HeapUse {
  int64_t calls = 0, bytes = 0;  // of the heap
  int64_t large = 0;             // of the calls: kLargeHeapBytes and more
  int64_t largest = 0;           // bytes of one call
  int64_t mappings = 0;          // calls of mmap, but for those of the C library itself
};

// Since the last call, or the start of the program.
HeapUse TakeHeapUse();

// The larger of each.
HeapUse MaxOf(const HeapUse& a, const HeapUse& b);

}  // namespace sluice::testing
