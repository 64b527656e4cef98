// Tokens of PTX text.
#pragma once

#include <cstddef>
#include <string>

namespace sluice::cuda_double {

class Lexer {
 public:
  explicit Lexer(const std::string& text) : text_(text) {}

  // The next token: a name or number with its dots ("ld.global.f32", "%r1", "0f3F800000"), a quoted
  // string, or one other character. "" at the end. Comments and white space are passed over.
  std::string Next();
  std::string Peek();
  bool TakeIf(const char* token);  // takes the next token if it is this one
  void SkipLine();                 // passes over the rest of the line
  void SkipPast(char c);
  int line() const { return line_; }

 private:
  void SkipBlanks();

  const std::string& text_;
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace sluice::cuda_double
