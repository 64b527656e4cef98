#include "data/tokenizer_json.h"

#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr int kMostDepth = 64;  // sequences of steps are read by recursion

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

// A Replace: a pattern and what comes in its place.
absl::Status ParsePattern(const Json& pattern, std::string* text, bool* literal) {
  *literal = pattern.contains("String");
  if (!*literal && !pattern.contains("Regex")) return Unsupported("the pattern", pattern.dump());
  *text = pattern.at(*literal ? "String" : "Regex").get<std::string>();
  return absl::OkStatus();
}

absl::Status ParseNormalizer(const Json& json, std::vector<NormalizerStep>* out) {
  using Kind = NormalizerStep::Kind;
  if (json.is_null()) return absl::OkStatus();
  const std::string type = TypeOf(json);
  if (type == "Sequence") {
    for (const Json& step : json.at("normalizers")) RETURN_IF_ERROR(ParseNormalizer(step, out));
    return absl::OkStatus();
  }
  NormalizerStep step;
  if (type == "NFC") {
    step.form = UnicodeForm::kNfc;
  } else if (type == "NFD") {
    step.form = UnicodeForm::kNfd;
  } else if (type == "NFKC") {
    step.form = UnicodeForm::kNfkc;
  } else if (type == "NFKD") {
    step.form = UnicodeForm::kNfkd;
  } else if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    step.text = json.at("prepend").get<std::string>();
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    RETURN_IF_ERROR(ParsePattern(json.at("pattern"), &step.text, &step.literal));
    step.content = json.at("content").get<std::string>();
  } else if (type == "Lowercase") {
    step.kind = Kind::kLowercase;
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    step.left = json.at("strip_left").get<bool>();
    step.right = json.at("strip_right").get<bool>();
  } else if (type == "StripAccents") {
    step.kind = Kind::kStripAccents;
  } else {
    return Unsupported("the normalizer", type);
  }
  out->push_back(std::move(step));
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

// Of a Metaspace. Old files say add_prefix_space only.
absl::StatusOr<PreTokenizerStep::Prefix> ParsePrefix(const Json& json) {
  const std::string scheme = Text(json, "prepend_scheme");
  if (scheme == "never" || (scheme.empty() && !Flag(json, "add_prefix_space", true)))
    return PreTokenizerStep::Prefix::kNever;
  if (scheme == "always" || scheme.empty()) return PreTokenizerStep::Prefix::kAlways;
  if (scheme == "first") return PreTokenizerStep::Prefix::kFirst;
  return Unsupported("the Metaspace option prepend_scheme =", scheme);
}

absl::Status ParseSplit(const Json& json, std::vector<PreTokenizerStep>* out) {
  PreTokenizerStep step;
  RETURN_IF_ERROR(ParsePattern(json.at("pattern"), &step.pattern, &step.literal));
  ASSIGN_OR_RETURN(step.behavior, ParseBehavior(json.at("behavior").get<std::string>()));
  step.invert = Flag(json, "invert", false);
  out->push_back(std::move(step));
  return absl::OkStatus();
}

PreTokenizerStep SplitBy(absl::string_view pattern, SplitBehavior behavior, bool invert = false) {
  return {.pattern = std::string(pattern), .behavior = behavior, .invert = invert};
}

absl::Status ParseMetaspace(const Json& json, std::vector<PreTokenizerStep>* out) {
  PreTokenizerStep step = {.kind = PreTokenizerStep::Kind::kMetaspace};
  step.pattern = json.at("replacement").get<std::string>();
  ASSIGN_OR_RETURN(step.prefix, ParsePrefix(json));
  out->push_back(step);
  if (!Flag(json, "split", true)) return absl::OkStatus();
  out->push_back(
      {.pattern = step.pattern, .literal = true, .behavior = SplitBehavior::kMergedWithNext});
  return absl::OkStatus();
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
  } else if (type == "Metaspace") {
    return ParseMetaspace(json, out);
  } else if (type == "CharDelimiterSplit") {
    out->push_back({.pattern = json.at("delimiter").get<std::string>(),
                    .literal = true,
                    .behavior = SplitBehavior::kRemoved});
  } else if (type == "WhitespaceSplit") {
    out->push_back(SplitBy("\\s", SplitBehavior::kRemoved));
  } else {
    return Unsupported("the pre-tokenizer", type);
  }
  return absl::OkStatus();
}

absl::Status Surround(std::vector<int32_t> before, std::vector<int32_t> behind,
                      TokenizerSpec* spec) {
  if (!spec->prefix_ids.empty() || !spec->suffix_ids.empty())
    return absl::InvalidArgumentError("a second post-processor that adds tokens is not supported");
  spec->prefix_ids = std::move(before);
  spec->suffix_ids = std::move(behind);
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
  if (type == "BertProcessing" || type == "RobertaProcessing") {  // [content, id] each
    return Surround({json.at("cls").at(1).get<int32_t>()}, {json.at("sep").at(1).get<int32_t>()},
                    spec);
  }
  if (type != "TemplateProcessing") return Unsupported("the post-processor", type);
  std::vector<int32_t> ids[2];
  int sequences = 0;
  for (const Json& piece : json.at("single")) {
    if (piece.contains("Sequence")) {
      ++sequences;
      continue;
    }
    const std::string name = piece.at("SpecialToken").at("id").get<std::string>();
    for (const Json& id : json.at("special_tokens").at(name).at("ids"))
      ids[sequences > 0 ? 1 : 0].push_back(id.get<int32_t>());
  }
  if (sequences != 1) return Unsupported("the template", json.at("single").dump());
  return Surround(std::move(ids[0]), std::move(ids[1]), spec);
}

absl::Status ParseDecoder(const Json& json, std::vector<DecoderStep>* out) {
  using Kind = DecoderStep::Kind;
  DecoderStep step;
  const std::string type = json.is_null() ? "" : TypeOf(json);
  if (type == "Sequence") {
    for (const Json& part : json.at("decoders")) RETURN_IF_ERROR(ParseDecoder(part, out));
    return absl::OkStatus();
  }
  if (type.empty()) {
    step.kind = Kind::kSpaces;
  } else if (type == "ByteFallback") {
    step.kind = Kind::kByteFallback;
  } else if (type == "Fuse") {
    step.kind = Kind::kFuse;
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    bool literal = true;
    RETURN_IF_ERROR(ParsePattern(json.at("pattern"), &step.text, &literal));
    if (!literal || step.text.empty()) return Unsupported("the decoder's pattern", step.text);
    step.content = json.at("content").get<std::string>();
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    step.text = json.at("content").get<std::string>();
    step.start = json.at("start").get<int>();
    step.stop = json.at("stop").get<int>();
  } else if (type == "Metaspace") {
    step.kind = Kind::kMetaspace;
    step.text = json.at("replacement").get<std::string>();
    ASSIGN_OR_RETURN(const auto prefix, ParsePrefix(json));
    step.drops_first = prefix != PreTokenizerStep::Prefix::kNever;
  } else if (type != "ByteLevel") {
    return Unsupported("the decoder", type);
  }
  out->push_back(std::move(step));
  return absl::OkStatus();
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
  spec->byte_fallback = Flag(model, "byte_fallback", false);
  spec->fuse_unknown = Flag(model, "fuse_unk", false);
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
  spec.byte_level = false;
  RETURN_IF_ERROR(ParsePreTokenizer(part("pre_tokenizer"), &spec.pre_tokenizer, &spec.byte_level));
  RETURN_IF_ERROR(ParsePostProcessor(part("post_processor"), &spec));
  spec.decoder.clear();
  RETURN_IF_ERROR(ParseDecoder(part("decoder"), &spec.decoder));
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
  bool is_too_deep = false;
  const Json::parser_callback_t watch = [&](int depth, Json::parse_event_t, Json&) {
    is_too_deep = is_too_deep || depth > kMostDepth;
    return true;
  };
  try {
    const Json parsed = Json::parse(json.begin(), json.end(), watch);
    if (is_too_deep) return absl::InvalidArgumentError(absl::StrCat(name, ": it nests too deeply"));
    auto result = parse(parsed);
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
    TokenizerConfig result = {.tokenizer_class = token("tokenizer_class"),
                              .bos_token = token("bos_token"),
                              .eos_token = token("eos_token"),
                              .add_bos_token = Flag(config, "add_bos_token", false),
                              .add_eos_token = Flag(config, "add_eos_token", false)};
    if (IsNull(config, "added_tokens_decoder")) return result;
    for (const auto& [id, value] : config.at("added_tokens_decoder").items()) {
      AddedToken added = {.content = value.at("content").get<std::string>(),
                          .special = Flag(value, "special", false),
                          .lstrip = Flag(value, "lstrip", false),
                          .rstrip = Flag(value, "rstrip", false),
                          .single_word = Flag(value, "single_word", false)};
      added.normalized = Flag(value, "normalized", !added.special);
      if (!absl::SimpleAtoi(id, &added.id)) return Unsupported("the added token's id", id);
      result.added_tokens.push_back(std::move(added));
    }
    return result;
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
