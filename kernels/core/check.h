// CHECK: for what only a bug of ours can break. Always on; prints the condition, both values and a
// message, then aborts. What the world can break (a file, a message, a configuration) returns
// absl::Status instead.
#pragma once

#include <cstdlib>
#include <functional>
#include <optional>
#include <sstream>
#include <string>

namespace sluice {

// Collects the message of a failed CHECK; its destructor prints it with file, line and rank, and
// aborts.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const std::string& what);
  [[noreturn]] ~CheckFailure();
  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;
  std::ostream& stream() { return message_; }

 private:
  std::ostringstream message_;
};

// The rank shown by a failed CHECK; set once by main() after MPI is up, -1 before.
void SetRankForCheckFailures(int rank);

namespace internal {
// Empty if `a` and `b` compare as they should, else what to print.
template <typename Compare, typename A, typename B>
std::optional<std::string> Compared(const char* text, const A& a, const B& b) {
  if (Compare()(a, b)) return std::nullopt;
  std::ostringstream out;
  out << text << " (" << a << " vs " << b << ")";
  return out.str();
}
}  // namespace internal

}  // namespace sluice

// Keeps the `else` of an enclosing unbraced `if` away from the macro's own.
#define SLUICE_NO_DANGLING_ELSE \
  switch (0)                    \
  case 0:                       \
  default:

#define SLUICE_CHECK_OP(compare, op, a, b)                                                 \
  SLUICE_NO_DANGLING_ELSE                                                                  \
  if (auto sluice_failed = ::sluice::internal::Compared<compare>(#a " " #op " " #b, a, b); \
      !sluice_failed) {                                                                    \
  } else /* NOLINT */                                                                      \
    ::sluice::CheckFailure(__FILE__, __LINE__, *sluice_failed).stream()

#define CHECK(condition)  \
  SLUICE_NO_DANGLING_ELSE \
  if (condition) {        \
  } else /* NOLINT */     \
    ::sluice::CheckFailure(__FILE__, __LINE__, #condition).stream()
#define CHECK_EQ(a, b) SLUICE_CHECK_OP(std::equal_to<>, ==, a, b)
#define CHECK_NE(a, b) SLUICE_CHECK_OP(std::not_equal_to<>, !=, a, b)
#define CHECK_LT(a, b) SLUICE_CHECK_OP(std::less<>, <, a, b)
#define CHECK_LE(a, b) SLUICE_CHECK_OP(std::less_equal<>, <=, a, b)
#define CHECK_GT(a, b) SLUICE_CHECK_OP(std::greater<>, >, a, b)
#define CHECK_GE(a, b) SLUICE_CHECK_OP(std::greater_equal<>, >=, a, b)
