#include "data/fim.h"

#include <algorithm>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/philox.h"

namespace sluice::data {

absl::StatusOr<FimTokens> FindFimTokens(const Tokenizer& tokenizer) {
  // DeepSeek's bars are U+FF5C, its low line U+2581.
  constexpr absl::string_view kNames[][3] = {{"<\xef\xbd\x9c"
                                              "fim\xe2\x96\x81"
                                              "begin\xef\xbd\x9c>",
                                              "<\xef\xbd\x9c"
                                              "fim\xe2\x96\x81hole\xef\xbd\x9c>",
                                              "<\xef\xbd\x9c"
                                              "fim\xe2\x96\x81"
                                              "end\xef\xbd\x9c>"},
                                             {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"},
                                             {"<fim_prefix>", "<fim_suffix>", "<fim_middle>"}};
  for (const auto& names : kNames) {
    const FimTokens tokens{tokenizer.IdOf(names[0]), tokenizer.IdOf(names[1]),
                           tokenizer.IdOf(names[2])};
    if (tokens.prefix >= 0 && tokens.suffix >= 0 && tokens.middle >= 0) return tokens;
  }
  return absl::NotFoundError(
      "the tokenizer has no fill-in-the-middle tokens (such as <|fim_prefix|>, <|fim_suffix|>, "
      "<|fim_middle|>)");
}

void ApplyFim(const FimOptions& options, int64_t sample, std::span<int32_t> tokens,
              std::vector<int32_t>* starts) {
  CHECK(!starts->empty() && (*starts)[0] == 0);
  std::vector<int32_t> out, out_starts;
  out.reserve(tokens.size() + 3 * starts->size());
  for (size_t d = 0; d < starts->size() && out.size() < tokens.size(); ++d) {
    const auto begin = tokens.begin() + (*starts)[d];
    auto end = d + 1 < starts->size() ? tokens.begin() + (*starts)[d + 1] : tokens.end();
    out_starts.push_back(static_cast<int32_t>(out.size()));
    const bool has_eos = end != begin && *(end - 1) == options.eos_id;
    if (has_eos) --end;
    const auto words = Philox(options.key, static_cast<uint64_t>(sample), d);
    if (end - begin >= 2 && UniformFromBits(words[0]) < options.rate) {
      const auto size = static_cast<uint64_t>(end - begin);
      auto first = begin + static_cast<int64_t>(words[1] * (size + 1) >> 32);
      auto second = begin + static_cast<int64_t>(words[2] * (size + 1) >> 32);
      if (second < first) std::swap(first, second);
      out.push_back(options.tokens.prefix);
      out.insert(out.end(), begin, first);
      out.push_back(options.tokens.suffix);
      out.insert(out.end(), second, end);
      out.push_back(options.tokens.middle);
      out.insert(out.end(), first, second);
    } else {
      out.insert(out.end(), begin, end);
    }
    if (has_eos) out.push_back(options.eos_id);
  }
  CHECK_GE(out.size(), tokens.size());
  std::copy_n(out.begin(), tokens.size(), tokens.begin());
  *starts = std::move(out_starts);
}

}  // namespace sluice::data
