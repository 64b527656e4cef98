#include "data/tokenizer_json.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

// Radford et al. 2019, encoder.py of GPT-2; what ByteLevel splits by when use_regex is true.
constexpr absl::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

absl::Status Unsupported(absl::string_view what, absl::string_view value) {
  return absl::InvalidArgumentError(absl::StrCat(what, " '", value, "' is not supported"));
}

std::string TypeOf(const Json& object) { return object.at("type").get<std::string>(); }
bool IsNull(const Json& object, const char* key) {
  return !object.contains(key) || object.at(key).is_null();
}
bool Flag(const Json& object, const char* key, bool otherwise) {
  return IsNull(object, key) ? otherwise : object.at(key).get<bool>();
}
std::string Text(const Json& object, const char* key) {
  return IsNull(object, key) ? std::string() : object.at(key).get<std::string>();
}

absl::Status ParseNormalizer(const Json& json, std::vector<UnicodeForm>* out) {
  if (json.is_null()) return absl::OkStatus();
  const std::string type = TypeOf(json);
  if (type == "Sequence") {
    for (const Json& step : json.at("normalizers")) RETURN_IF_ERROR(ParseNormalizer(step, out));
  } else if (type == "NFC") {
    out->push_back(UnicodeForm::kNfc);
  } else if (type == "NFD") {
    out->push_back(UnicodeForm::kNfd);
  } else if (type == "NFKC") {
    out->push_back(UnicodeForm::kNfkc);
  } else if (type == "NFKD") {
    out->push_back(UnicodeForm::kNfkd);
  } else {
    return Unsupported("the normalizer", type);
  }
  return absl::OkStatus();
}

absl::StatusOr<SplitBehavior> ParseBehavior(const std::string& name) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return Unsupported("the split behavior", name);
}

absl::Status ParseSplit(const Json& json, std::vector<PreTokenizerStep>* out) {
  PreTokenizerStep step;
  const Json& pattern = json.at("pattern");
  if (pattern.contains("Regex")) {
    step.pattern = pattern.at("Regex").get<std::string>();
  } else if (pattern.contains("String")) {
    step.pattern = pattern.at("String").get<std::string>();
    step.literal = true;
  } else {
    return Unsupported("the split pattern", pattern.dump());
  }
  ASSIGN_OR_RETURN(step.behavior, ParseBehavior(json.at("behavior").get<std::string>()));
  step.invert = Flag(json, "invert", false);
  out->push_back(std::move(step));
  return absl::OkStatus();
}

PreTokenizerStep SplitBy(absl::string_view pattern, SplitBehavior behavior, bool invert = false) {
  return {.pattern = std::string(pattern), .behavior = behavior, .invert = invert};
}

// *ended: ByteLevel was seen; it leaves an alphabet that our steps do not work in.
absl::Status ParsePreTokenizer(const Json& json, std::vector<PreTokenizerStep>* out, bool* ended) {
  if (json.is_null()) return absl::OkStatus();
  const std::string type = TypeOf(json);
  if (*ended) return Unsupported("after ByteLevel, the pre-tokenizer", type);
  if (type == "Sequence") {
    for (const Json& step : json.at("pretokenizers"))
      RETURN_IF_ERROR(ParsePreTokenizer(step, out, ended));
  } else if (type == "Split") {
    return ParseSplit(json, out);
  } else if (type == "ByteLevel") {
    if (Flag(json, "add_prefix_space", true))
      out->push_back({.kind = PreTokenizerStep::Kind::kPrefixSpace});
    if (Flag(json, "use_regex", true))
      out->push_back(SplitBy(kGpt2Pattern, SplitBehavior::kIsolated));
    *ended = true;
  } else if (type == "Digits") {
    out->push_back(SplitBy(Flag(json, "individual_digits", false) ? "\\p{N}" : "\\p{N}+",
                           SplitBehavior::kIsolated));
  } else if (type == "Punctuation") {
    auto behavior = SplitBehavior::kIsolated;
    if (!IsNull(json, "behavior")) {
      ASSIGN_OR_RETURN(behavior, ParseBehavior(json.at("behavior").get<std::string>()));
    }
    out->push_back(SplitBy("[\\p{P}!-/:-@\\[-`{-~]", behavior));
  } else if (type == "Whitespace") {
    // That step runs Rust's regular expressions, whose \w is Unicode's (UTS 18, annex C): unlike
    // Oniguruma's it has the joiners, but of the numbers only Nd and what is Alphabetic.
    constexpr absl::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}";
    out->push_back(SplitBy(absl::StrCat("[", kWord, "]+|[^", kWord, "\\s]+"),
                           SplitBehavior::kRemoved, /*invert=*/true));
  } else if (type == "WhitespaceSplit") {
    out->push_back(SplitBy("\\s", SplitBehavior::kRemoved));
  } else {
    return Unsupported("the pre-tokenizer", type);
  }
  return absl::OkStatus();
}

absl::Status ParsePostProcessor(const Json& json, TokenizerSpec* spec) {
  if (json.is_null()) return absl::OkStatus();
  const std::string type = TypeOf(json);
  if (type == "ByteLevel") return absl::OkStatus();  // moves offsets only
  if (type == "Sequence") {
    for (const Json& step : json.at("processors")) RETURN_IF_ERROR(ParsePostProcessor(step, spec));
    return absl::OkStatus();
  }
  if (type != "TemplateProcessing") return Unsupported("the post-processor", type);
  bool behind = false;
  for (const Json& piece : json.at("single")) {
    if (piece.contains("Sequence")) {
      behind = true;
      continue;
    }
    const std::string name = piece.at("SpecialToken").at("id").get<std::string>();
    for (const Json& id : json.at("special_tokens").at(name).at("ids"))
      (behind ? spec->suffix_ids : spec->prefix_ids).push_back(id.get<int32_t>());
  }
  return absl::OkStatus();
}

absl::Status ParseDecoder(const Json& json) {
  if (json.is_null()) return Unsupported("the decoder", "null");
  const std::string type = TypeOf(json);
  if (type == "Sequence") {
    for (const Json& step : json.at("decoders")) RETURN_IF_ERROR(ParseDecoder(step));
    return absl::OkStatus();
  }
  return type == "ByteLevel" ? absl::OkStatus() : Unsupported("the decoder", type);
}

absl::Status ParseModel(const Json& model, TokenizerSpec* spec) {
  // Old files leave the type out; BPE is the one kind with merges.
  const std::string type = model.contains("type")     ? TypeOf(model)
                           : model.contains("merges") ? "BPE"
                                                      : "without type";
  if (type != "BPE") return Unsupported("the model", type);
  if (!IsNull(model, "dropout") && model.at("dropout").get<double>() != 0)
    return Unsupported("the BPE option dropout =", model.at("dropout").dump());
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!Text(model, key).empty())
      return Unsupported(absl::StrCat("the BPE option ", key, " ="), Text(model, key));
  if (Flag(model, "byte_fallback", false))
    return Unsupported("the BPE option byte_fallback =", "true");
  spec->unknown_token = Text(model, "unk_token");
  spec->ignore_merges = Flag(model, "ignore_merges", false);
  spec->vocab.reserve(model.at("vocab").size());
  for (const auto& [token, id] : model.at("vocab").items())
    spec->vocab.emplace_back(token, id.get<int32_t>());
  spec->merges.reserve(model.at("merges").size());
  for (const Json& merge : model.at("merges")) {
    if (merge.is_array()) {
      spec->merges.emplace_back(merge.at(0).get<std::string>(), merge.at(1).get<std::string>());
      continue;
    }
    const std::string& pair = merge.get_ref<const std::string&>();
    const size_t space = pair.find(' ');
    if (space == std::string::npos || pair.find(' ', space + 1) != std::string::npos)
      return absl::InvalidArgumentError(
          absl::StrCat("the merge '", pair, "' is not two tokens with one space between them"));
    spec->merges.emplace_back(pair.substr(0, space), pair.substr(space + 1));
  }
  return absl::OkStatus();
}

absl::StatusOr<TokenizerSpec> ParseSpec(const Json& json) {
  TokenizerSpec spec;
  const auto part = [&json](const char* key) { return IsNull(json, key) ? Json() : json.at(key); };
  RETURN_IF_ERROR(ParseNormalizer(part("normalizer"), &spec.normalizers));
  bool byte_level = false;
  RETURN_IF_ERROR(ParsePreTokenizer(part("pre_tokenizer"), &spec.pre_tokenizer, &byte_level));
  if (!byte_level)
    return absl::InvalidArgumentError(
        "the pre-tokenizer has no ByteLevel step; only byte-level BPE is supported");
  RETURN_IF_ERROR(ParsePostProcessor(part("post_processor"), &spec));
  RETURN_IF_ERROR(ParseDecoder(part("decoder")));
  RETURN_IF_ERROR(ParseModel(json.at("model"), &spec));
  for (const Json& token : part("added_tokens")) {
    const bool special = Flag(token, "special", false);
    spec.added_tokens.push_back({.content = token.at("content").get<std::string>(),
                                 .id = token.at("id").get<int32_t>(),
                                 .special = special,
                                 .normalized = Flag(token, "normalized", !special),
                                 .lstrip = Flag(token, "lstrip", false),
                                 .rstrip = Flag(token, "rstrip", false),
                                 .single_word = Flag(token, "single_word", false)});
  }
  return spec;
}

// Runs parse(json text as Json); the library's exceptions end here.
template <typename Parse>
auto Guarded(absl::string_view json, const std::string& name, const Parse& parse)
    -> decltype(parse(Json())) {
  absl::Status status;
  try {
    auto result = parse(Json::parse(json.begin(), json.end()));
    if (result.ok()) return result;
    status = result.status();
  } catch (const nlohmann::json::exception& e) {
    status = absl::InvalidArgumentError(e.what());
  }
  return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
}

}  // namespace

absl::StatusOr<TokenizerSpec> ParseTokenizerJson(absl::string_view json, const std::string& name) {
  return Guarded(json, name, ParseSpec);
}

absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(absl::string_view json,
                                                     const std::string& name) {
  return Guarded(json, name, [](const Json& config) -> absl::StatusOr<TokenizerConfig> {
    // A token is a string, or an object that holds it as "content".
    const auto token = [&config](const char* key) {
      if (IsNull(config, key)) return std::string();
      const Json& value = config.at(key);
      return value.is_object() ? value.at("content").get<std::string>() : value.get<std::string>();
    };
    return TokenizerConfig{.bos_token = token("bos_token"),
                           .eos_token = token("eos_token"),
                           .add_bos_token = Flag(config, "add_bos_token", false),
                           .add_eos_token = Flag(config, "add_eos_token", false)};
  });
}

std::string WriteTokenizerJson(const TokenizerSpec& spec) {
  CHECK_EQ(spec.pre_tokenizer.size(), 1u);
  CHECK(spec.normalizers.empty() && spec.prefix_ids.empty() && spec.suffix_ids.empty());
  const OrderedJson byte_level = {{"type", "ByteLevel"},
                                  {"add_prefix_space", false},
                                  {"trim_offsets", true},
                                  {"use_regex", false}};
  OrderedJson added = OrderedJson::array();
  for (const AddedToken& token : spec.added_tokens)
    added.push_back({{"id", token.id},
                     {"content", token.content},
                     {"single_word", token.single_word},
                     {"lstrip", token.lstrip},
                     {"rstrip", token.rstrip},
                     {"normalized", token.normalized},
                     {"special", token.special}});
  const OrderedJson split = {{"type", "Split"},
                             {"pattern", {{"Regex", spec.pre_tokenizer[0].pattern}}},
                             {"behavior", "Isolated"},
                             {"invert", false}};
  OrderedJson vocab = OrderedJson::object();
  // Straight to the end: operator[] of an ordered object searches from the front.
  for (const auto& [token, id] : spec.vocab)
    vocab.get_ref<OrderedJson::object_t&>().push_back({token, id});
  OrderedJson merges = OrderedJson::array();
  for (const auto& [left, right] : spec.merges) merges.push_back(absl::StrCat(left, " ", right));
  const OrderedJson json = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", std::move(added)},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "Sequence"}, {"pretokenizers", OrderedJson::array({split, byte_level})}}},
      {"post_processor", nullptr},
      {"decoder", byte_level},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"ignore_merges", spec.ignore_merges},
        {"vocab", std::move(vocab)},
        {"merges", std::move(merges)}}}};
  return json.dump(1) + "\n";
}

}  // namespace sluice::data
