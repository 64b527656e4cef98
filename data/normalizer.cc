#include "data/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "data/utf8.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

bool IsAscii(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<uint8_t>(c) < 128; });
}

std::string ToForm(const std::string& text, UnicodeForm form) {
  int options = UTF8PROC_STABLE;
  const bool compose = form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc;
  options |= compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* result = nullptr;
  const utf8proc_ssize_t bytes = utf8proc_map(
      reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
      static_cast<utf8proc_ssize_t>(text.size()), &result, static_cast<utf8proc_option_t>(options));
  CHECK_GE(bytes, 0) << utf8proc_errmsg(bytes);  // valid UTF-8: only memory can be short
  std::string normal(reinterpret_cast<const char*>(result), static_cast<size_t>(bytes));
  std::free(result);  // NOLINT: utf8proc allocates with malloc
  return normal;
}

// Unicode's full mapping without context: utf8proc has the simple one, and U+0130 is the one
// character whose full lower case is longer (SpecialCasing.txt).
std::string ToLower(absl::string_view text) {
  std::string lower;
  while (!text.empty()) {
    const uint32_t c = TakeCodePoint(&text).value_or(0xfffd);
    if (c == 0x130) {
      lower += "i\xcc\x87";
    } else {
      AppendUtf8(static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), &lower);
    }
  }
  return lower;
}

std::string WithoutMarks(absl::string_view text) {
  std::string rest;
  while (!text.empty()) {
    const uint32_t c = TakeCodePoint(&text).value_or(0xfffd);
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
    if (category != UTF8PROC_CATEGORY_MN && category != UTF8PROC_CATEGORY_MC &&
        category != UTF8PROC_CATEGORY_ME)
      AppendUtf8(c, &rest);
  }
  return rest;
}

std::string Stripped(absl::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    absl::string_view rest = text;
    if (!IsWhiteSpace(TakeCodePoint(&rest).value_or(0))) break;
    text = rest;
  }
  while (right && !text.empty()) {
    const auto [c, begin] = CharacterBefore(text, text.size());
    if (!IsWhiteSpace(c)) break;
    text = text.substr(0, begin);
  }
  return std::string(text);
}

std::string ReplaceAll(absl::string_view text, const SplitPattern& pattern,
                       absl::string_view content) {
  std::string result;
  if (text.empty()) return result;  // here, too, an empty match is none
  const auto scratch = pattern.NewScratch();
  size_t done = 0, from = 0;
  bool any = false;
  while (from <= text.size()) {
    const auto match = pattern.Find(text, from, *scratch);
    if (!match) break;
    const auto [begin, end] = *match;
    if (begin == end && any && begin == done) {  // an empty match right behind the last one
      from = begin + 1;
      while (from < text.size() && (static_cast<uint8_t>(text[from]) & 0xc0) == 0x80) ++from;
      continue;
    }
    absl::StrAppend(&result, text.substr(done, begin - done), content);
    done = from = end;
    any = true;
  }
  absl::StrAppend(&result, text.substr(done));
  return result;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Normalizer>> Normalizer::Create(
    const std::vector<NormalizerStep>& steps) {
  auto result = std::make_unique<Normalizer>();
  for (const NormalizerStep& spec : steps) {
    Step step{.spec = spec};
    if (spec.kind == NormalizerStep::Kind::kReplace && !spec.literal) {
      ASSIGN_OR_RETURN(step.pattern, SplitPattern::Compile(spec.text));
    }
    result->forms_only_ = result->forms_only_ && spec.kind == NormalizerStep::Kind::kForm;
    result->steps_.push_back(std::move(step));
  }
  return result;
}

bool Normalizer::MayChange(absl::string_view text) const {
  return !steps_.empty() && !(forms_only_ && IsAscii(text));
}

std::string Normalizer::Apply(std::string text, bool continues) const {
  for (const Step& step : steps_) {
    const NormalizerStep& spec = step.spec;
    switch (spec.kind) {
      case NormalizerStep::Kind::kForm:
        if (!IsAscii(text)) text = ToForm(text, spec.form);
        break;
      case NormalizerStep::Kind::kPrepend:
        if (!text.empty() && !continues) text = absl::StrCat(spec.text, text);
        break;
      case NormalizerStep::Kind::kReplace:
        if (step.pattern != nullptr) {
          text = ReplaceAll(text, *step.pattern, spec.content);
        } else if (!spec.text.empty()) {
          text = absl::StrReplaceAll(text, {{spec.text, spec.content}});
        }
        break;
      case NormalizerStep::Kind::kLowercase:
        text = ToLower(text);
        break;
      case NormalizerStep::Kind::kStrip:
        text = Stripped(text, spec.left, spec.right);
        break;
      case NormalizerStep::Kind::kStripAccents:
        text = WithoutMarks(text);
        break;
    }
  }
  return text;
}

}  // namespace sluice::data
