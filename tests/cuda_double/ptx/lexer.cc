#include "tests/cuda_double/ptx/lexer.h"

#include <cctype>

namespace sluice::cuda_double {

void Lexer::SkipBlanks() {
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (c == '\0') {
      at_ = text_.size();
    } else if (std::isspace(static_cast<unsigned char>(c))) {
      if (c == '\n') ++line_;
      ++at_;
    } else if (text_.compare(at_, 2, "//") == 0) {
      while (at_ < text_.size() && text_[at_] != '\n') ++at_;
    } else {
      return;
    }
  }
}

std::string Lexer::Next() {
  SkipBlanks();
  if (at_ >= text_.size()) return "";
  const size_t begin = at_;
  const auto is_name = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' ||
           c == '.';
  };
  if (is_name(text_[at_])) {
    while (at_ < text_.size() && (is_name(text_[at_]) || text_.compare(at_, 2, "::") == 0)) {
      at_ += text_[at_] == ':' ? 2 : 1;
    }
  } else if (text_[at_] == '"') {
    const size_t end = text_.find('"', at_ + 1);
    at_ = end == std::string::npos ? text_.size() : end + 1;
  } else {
    ++at_;
  }
  return text_.substr(begin, at_ - begin);
}

std::string Lexer::Peek() {
  const size_t at = at_;
  const int line = line_;
  const std::string token = Next();
  at_ = at;
  line_ = line;
  return token;
}

bool Lexer::TakeIf(const char* token) {
  if (Peek() != token) return false;
  Next();
  return true;
}

void Lexer::SkipLine() {
  while (at_ < text_.size() && text_[at_] != '\n') ++at_;
}

void Lexer::SkipPast(char c) {
  while (at_ < text_.size() && text_[at_] != c) {
    if (text_[at_] == '\n') ++line_;
    ++at_;
  }
  if (at_ < text_.size()) ++at_;
}

}  // namespace sluice::cuda_double
