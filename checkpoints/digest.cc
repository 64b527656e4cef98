#include "checkpoints/digest.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoints/manifest.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

using Wide = unsigned __int128;

constexpr uint64_t kPrime = (uint64_t{1} << 61) - 1;
// The first 16 hexadecimal digits of the fractions of pi and of e, modulo kPrime. Any numbers would
// do that nobody's data were made for.
constexpr std::array<uint64_t, 2> kBase = {0x243f6a8885a308d3u % kPrime,
                                           0xb7e151628aed2a6au % kPrime};
constexpr int kBlock = 64;  // words between reductions; the sum stays below 2^(33 + 61 + 6)

constexpr uint64_t Reduced(Wide x) {
  // x = high * 2^61 + low is congruent to high + low; twice, as x may have 128 bits.
  const Wide once = (x & kPrime) + (x >> 61);
  const uint64_t twice = static_cast<uint64_t>(once & kPrime) + static_cast<uint64_t>(once >> 61);
  return twice >= kPrime ? twice - kPrime : twice;
}

constexpr uint64_t Product(uint64_t x, uint64_t y) { return Reduced(Wide{x} * y); }

constexpr uint64_t Power(uint64_t base, uint64_t exponent) {
  uint64_t result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result = Product(result, base);
    base = Product(base, base);
  }
  return result;
}

// powers[k][i] = r_k^i for i = 0 .. kBlock.
using Powers = std::array<std::array<uint64_t, kBlock + 1>, 2>;
constexpr Powers MakePowers() {
  Powers powers{};
  for (size_t k = 0; k < 2; ++k) {
    powers[k][0] = 1;
    for (size_t i = 1; i <= kBlock; ++i) powers[k][i] = Product(powers[k][i - 1], kBase[k]);
  }
  return powers;
}
constexpr Powers kPowers = MakePowers();

// sum over n words of (w_i + 1) * r^(n - 1 - i).
template <typename Word>
Digest HashWords(const char* data, int64_t num_words) {
  Digest digest;
  std::array<Word, kBlock> words;
  for (int64_t begin = 0; begin < num_words; begin += kBlock) {
    const size_t n = static_cast<size_t>(std::min<int64_t>(kBlock, num_words - begin));
    std::memcpy(words.data(), data + begin * static_cast<int64_t>(sizeof(Word)), n * sizeof(Word));
    Wide a = Wide{digest.a} * kPowers[0][n], b = Wide{digest.b} * kPowers[1][n];
    a = Reduced(a);
    b = Reduced(b);
    for (size_t i = 0; i < n; ++i) {
      const uint64_t word = uint64_t{words[i]} + 1;
      a += Wide{word} * kPowers[0][n - 1 - i];
      b += Wide{word} * kPowers[1][n - 1 - i];
    }
    digest = {Reduced(a), Reduced(b)};
  }
  return digest;
}

Digest HashText(absl::string_view text) {
  return HashWords<uint8_t>(text.data(), static_cast<int64_t>(text.size()));
}

// The line of a state entry, without a digest before it: binary values as hexadecimal.
std::string StateLine(const std::string& name, const std::string& value) {
  const bool is_text =
      std::all_of(value.begin(), value.end(), [](char c) { return c >= ' ' && c <= '~'; });
  return absl::StrCat("state ", name, " = ", is_text ? value : "0x" + absl::BytesToHexString(value),
                      "\n");
}

std::string Lines(const StateDigest& digest) {
  std::string text;
  for (const TensorDigest& tensor : digest.tensors) {
    absl::StrAppend(&text, tensor.digest.ToString(), "  ", tensor.tensor, "  ", tensor.dtype, " ",
                    ShapeText(tensor.shape), "\n");
  }
  for (const auto& [name, value] : digest.state) text += StateLine(name, value);
  absl::StrAppend(&text, "step ", digest.step, "\n");
  return text;
}

}  // namespace

std::string Digest::ToString() const { return absl::StrFormat("%016x%016x", a, b); }

Digest Sum(const Digest& x, const Digest& y) {
  return {Reduced(Wide{x.a} + y.a), Reduced(Wide{x.b} + y.b)};
}

Digest DigestOfPiece(const TensorPiece& piece, const void* data) {
  const absl::Status checked = CheckPiece(piece);
  CHECK(checked.ok()) << checked.ToString();
  const int64_t elements = *NumElements(piece.global_shape);
  const int64_t element_bytes = static_cast<int64_t>(kernels::SizeOf(piece.dtype));
  const int64_t words_per_element = element_bytes == 8 ? 2 : 1;
  const int64_t num_words = piece.num_elements() * words_per_element;
  const char* bytes = static_cast<const char*>(data);
  Digest digest;
  switch (element_bytes) {
    case 1:
      digest = HashWords<uint8_t>(bytes, num_words);
      break;
    case 2:
      digest = HashWords<uint16_t>(bytes, num_words);
      break;
    case 4:
    case 8:
      digest = HashWords<uint32_t>(bytes, num_words);
      break;
    default:
      CHECK(false) << element_bytes;
  }
  const uint64_t words_behind = static_cast<uint64_t>((elements - piece.end) * words_per_element);
  return {Product(digest.a, Power(kBase[0], words_behind)),
          Product(digest.b, Power(kBase[1], words_behind))};
}

std::string StateDigest::ToString() const {
  return absl::StrCat(Lines(*this), total.ToString(), "  total\n");
}

void ComputeTotal(StateDigest& digest) {
  std::sort(digest.tensors.begin(), digest.tensors.end(),
            [](const TensorDigest& a, const TensorDigest& b) { return a.tensor < b.tensor; });
  std::sort(digest.state.begin(), digest.state.end());
  digest.total = HashText(Lines(digest));
}

absl::StatusOr<StateDigest> DigestOfCheckpoint(CheckpointReader& reader) {
  constexpr int64_t kBufferBytes = 4 << 20;
  std::vector<char> buffer;
  StateDigest digest{.step = reader.step()};
  for (const TensorRecord& record : reader.tensors()) {
    const TensorPiece whole = PieceOf(record);
    TensorDigest tensor{record.name(), record.dtype(), whole.global_shape, {}};
    const int64_t step = kBufferBytes / static_cast<int64_t>(kernels::SizeOf(whole.dtype));
    TensorPiece part = whole;
    for (part.begin = 0; part.begin < whole.end; part.begin = part.end) {
      part.end = std::min(whole.end, part.begin + step);
      buffer.resize(static_cast<size_t>(part.bytes()));
      RETURN_IF_ERROR(reader.Read(part, buffer.data()));
      tensor.digest = Sum(tensor.digest, DigestOfPiece(part, buffer.data()));
    }
    digest.tensors.push_back(std::move(tensor));
  }
  for (const auto& [name, value] : reader.metadata().state())
    digest.state.emplace_back(name, value);
  ComputeTotal(digest);
  return digest;
}

}  // namespace sluice::checkpoints
