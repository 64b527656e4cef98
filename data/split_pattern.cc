#include "data/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {

class SplitPattern::Scratch {
 public:
  explicit Scratch(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(64 << 10, 64 << 20, nullptr)) {
    CHECK(data != nullptr && context != nullptr) << "out of memory";
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Scratch() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    if (stack != nullptr) pcre2_jit_stack_free(stack);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  pcre2_match_data* const data;
  pcre2_match_context* const context;
  pcre2_jit_stack* const stack;
};

void SplitPattern::ScratchDeleter::operator()(Scratch* scratch) const { delete scratch; }

namespace {

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
using CodePtr = std::unique_ptr<pcre2_code, CodeDeleter>;

// Null and a message in *error when PCRE2 refuses.
CodePtr CompilePcre2(absl::string_view pattern, std::string* error) {
  struct ContextDeleter {
    void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
  };
  const std::unique_ptr<pcre2_compile_context, ContextDeleter> context(
      pcre2_compile_context_create(nullptr));
  CHECK(context != nullptr) << "out of memory";
  // Only LF ends a line for ^, $ and the dot, as in Oniguruma; the library's default is a build
  // option.
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int code = 0;
  PCRE2_SIZE at = 0;
  CodePtr compiled(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &at,
                                 context.get()));
  if (compiled == nullptr) {
    std::array<PCRE2_UCHAR, 160> message;
    pcre2_get_error_message(code, message.data(), message.size());
    *error = absl::StrCat(reinterpret_cast<const char*>(message.data()), " at offset ", at);
  }
  return compiled;
}

class Translator {
 public:
  explicit Translator(absl::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        RETURN_IF_ERROR(Escape());
      } else if (in_class_) {
        RETURN_IF_ERROR(InsideClass(c));
      } else if (c == '[') {
        BeginClass();
      } else if (c == '(') {
        RETURN_IF_ERROR(Group());
      } else if (c == '{') {
        RETURN_IF_ERROR(Braces());
      } else {
        Copy(1);
      }
    }
    if (in_class_) return Refuse("a character class without end");
    return out_;
  }

 private:
  absl::string_view Rest() const { return pattern_.substr(at_); }
  void Copy(size_t count) {
    absl::StrAppend(&out_, pattern_.substr(at_, count));
    at_ += count;
  }
  void Replace(size_t count, absl::string_view by) {
    absl::StrAppend(&out_, by);
    at_ += count;
  }
  absl::Status Refuse(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("the regular expression '", pattern_, "' has ",
                                                   what, ", which is not supported"));
  }

  void BeginClass() {
    in_class_ = true;
    Copy(1);
    if (absl::StartsWith(Rest(), "^")) Copy(1);
    if (absl::StartsWith(Rest(), "]")) Replace(1, "\\]");  // first in a class: a literal
  }

  absl::Status InsideClass(char c) {
    if (c == '[') return Refuse("a class inside a class");
    if (absl::StartsWith(Rest(), "&&")) return Refuse("an intersection of classes (&&)");
    if (c == ']') in_class_ = false;
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Group() {
    for (const absl::string_view known :
         {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"}) {
      if (absl::StartsWith(Rest(), known)) {
        Copy(known.size());
        return absl::OkStatus();
      }
    }
    // Elsewhere Oniguruma lets (?i) reach over the alternatives that follow, PCRE2 does not.
    if (at_ == 0 && absl::StartsWith(Rest(), "(?i)")) {
      Copy(4);
      return absl::OkStatus();
    }
    if (absl::StartsWith(Rest(), "(?") || absl::StartsWith(Rest(), "(*"))
      return Refuse(absl::StrCat("the group '", Rest().substr(0, 4), "'"));
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Braces() {
    const size_t end = Rest().find('}');
    if (end == absl::string_view::npos || end == 1 ||
        Rest().substr(1, end - 1).find_first_not_of("0123456789,") != absl::string_view::npos ||
        Rest()[1] == ',')
      return Refuse("a brace that is no {n}, {n,} or {n,m}");
    Copy(end + 1);
    if (absl::StartsWith(Rest(), "+"))
      return Refuse("'+' after '}'");  // possessive in PCRE2, a repetition of it in Oniguruma
    return absl::OkStatus();
  }

  absl::Status Escape() {
    if (Rest().size() < 2) return Refuse("a backslash at its end");
    // Oniguruma's word characters: those of Unicode (UTS 18, annex C) without the joiners, and the
    // other numbers of Latin-1 (found by comparing all code points).
    constexpr absl::string_view kWord =
        "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";
    const char c = Rest()[1];
    switch (c) {
      case 's':
        Replace(2, "\\p{White_Space}");
        return absl::OkStatus();
      case 'S':
        Replace(2, "\\P{White_Space}");
        return absl::OkStatus();
      case 'w':
        Replace(2, in_class_ ? std::string(kWord) : absl::StrCat("[", kWord, "]"));
        return absl::OkStatus();
      case 'W':
        if (in_class_) return Refuse("'\\W' in a class");
        Replace(2, absl::StrCat("[^", kWord, "]"));
        return absl::OkStatus();
      case 'v':
        Replace(2, "\\x0b");
        return absl::OkStatus();
      case 'p':
      case 'P':
        return Property();
      case 'x':
      case 'u':
        return HexEscape();
      default:
        break;
    }
    const bool same = absl::StrContains("dDnrtfaeAzZ", absl::string_view(&c, 1));
    const bool letter_or_digit =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter_or_digit && !same)
      return Refuse(absl::StrCat("the escape '\\", absl::string_view(&c, 1), "'"));
    Copy(2);
    return absl::OkStatus();
  }

  absl::Status HexEscape() {
    const bool braces = absl::StartsWith(Rest().substr(2), "{");
    const size_t digits_at = braces ? 3 : 2;
    const size_t most = braces ? 8 : Rest()[1] == 'u' ? 4 : 2;
    size_t n = 0;
    while (n < most && digits_at + n < Rest().size() &&
           absl::StrContains("0123456789abcdefABCDEF", Rest().substr(digits_at + n, 1)))
      ++n;
    const absl::string_view digits = Rest().substr(digits_at, n);
    const bool closed = !braces || absl::StartsWith(Rest().substr(digits_at + n), "}");
    // \x80 and above are bytes in Oniguruma, code points in PCRE2.
    const bool is_byte = Rest()[1] == 'x' && !braces && (n != 2 || digits[0] > '7');
    if (n == 0 || !closed || is_byte) return Refuse("an escape for a byte or without digits");
    Replace(digits_at + n + (braces ? 1 : 0), absl::StrCat("\\x{", digits, "}"));
    return absl::OkStatus();
  }

  absl::Status Property() {
    const size_t end = Rest().find('}');
    if (Rest().size() < 3 || Rest()[2] != '{' || end == absl::string_view::npos)
      return Refuse("\\p without braces");
    const absl::string_view name = Rest().substr(3, end - 3);
    // A bare script name means Script_Extensions to PCRE2 (since 10.40), Script to Oniguruma.
    std::string ignored;
    const std::string as_script = absl::StrCat("\\", Rest().substr(1, 1), "{sc:", name, "}");
    if (name.size() > 2 && CompilePcre2(as_script, &ignored) != nullptr) {
      Replace(end + 1, as_script);
    } else {
      Copy(end + 1);
    }
    return absl::OkStatus();
  }

  const absl::string_view pattern_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

class Pcre2Pattern : public SplitPattern {
 public:
  Pcre2Pattern(CodePtr code, bool has_jit) : code_(std::move(code)), has_jit_(has_jit) {}

  ScratchPtr NewScratch() const override { return ScratchPtr(new Scratch(code_.get())); }

  std::optional<std::pair<size_t, size_t>> Find(absl::string_view text, size_t from,
                                                Scratch& scratch) const override {
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (has_jit_)
      rc = pcre2_jit_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                           scratch.data, scratch.context);
    // The interpreter keeps its backtracking points on the heap, so it can finish what was too
    // deep for the JIT's stack.
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
      rc = pcre2_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                       scratch.data, scratch.context);
    // A resource limit (other codes < 0) ends the search like the end of the text: encoding is
    // total, the rest of the text stays one word.
    if (rc < 0) return std::nullopt;
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(scratch.data);
    return std::pair<size_t, size_t>(bounds[0], bounds[1]);
  }

 private:
  const CodePtr code_;
  const bool has_jit_;
};

}  // namespace

absl::StatusOr<std::string> TranslateOniguruma(absl::string_view pattern) {
  return Translator(pattern).Run();
}

absl::StatusOr<std::unique_ptr<SplitPattern>> SplitPattern::Compile(absl::string_view oniguruma) {
  ASSIGN_OR_RETURN(const std::string pattern, TranslateOniguruma(oniguruma));
  std::string error;
  CodePtr code = CompilePcre2(pattern, &error);
  if (code == nullptr)
    return absl::InvalidArgumentError(absl::StrCat("the regular expression '", oniguruma,
                                                   "' (as PCRE2: '", pattern,
                                                   "') does not compile: ", error));
  const bool has_jit = pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE) == 0;
  return std::make_unique<Pcre2Pattern>(std::move(code), has_jit);
}

}  // namespace sluice::data
