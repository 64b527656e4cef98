// A sanitizer looks at memory and threads, and costs 5 to 20 times the time: where a test is
// exhaustive for its own subject's sake, a sanitized build takes an even part of the cases. The
// plain build takes them all.
#pragma once

namespace sluice::testing {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace sluice::testing
