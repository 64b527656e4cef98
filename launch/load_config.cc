#include "launch/load_config.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "launch/presets.h"
#include "launch/suggest.h"

namespace sluice::launch {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Keeps the first error as "source:line: message".
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  explicit FirstError(absl::string_view source) : source_(source) {}
  void AddError(int line, google::protobuf::io::ColumnNumber /*column*/,
                const std::string& message) override {
    if (text_.empty()) text_ = absl::StrCat(source_, ":", line + 1, ": ", message);
  }
  const std::string& text() const { return text_; }

 private:
  const std::string source_;
  std::string text_;
};

void AppendPaths(const Descriptor& descriptor, const std::string& prefix,
                 std::vector<std::string>& paths) {
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    const std::string path = absl::StrCat(prefix, std::string(field.name()));
    if (field.message_type() != nullptr && !field.is_repeated()) {
      AppendPaths(*field.message_type(), absl::StrCat(path, "."), paths);
    } else {
      paths.push_back(path);
    }
  }
}

// What was probably meant by a path of which `word` is no field of `parent` (at `prefix`): a
// sibling, or a field of that name elsewhere.
std::string SuggestField(const Descriptor& root, const Descriptor& parent,
                         const std::string& prefix, const std::string& word) {
  std::vector<std::string> siblings;
  for (int i = 0; i < parent.field_count(); ++i) {
    siblings.push_back(std::string(parent.field(i)->name()));
  }
  const std::vector<std::string> paths = FieldPaths(root);
  for (const std::string& path : paths) {
    if (absl::EndsWith(path, absl::StrCat(".", word))) return path;
  }
  if (const std::string near = Nearest(word, siblings); !near.empty()) return prefix + near;
  return Nearest(prefix + word, paths);
}

absl::Status UnknownField(const Message& root, const Descriptor& parent, const std::string& prefix,
                          const std::string& word, const std::string& edit) {
  const std::string near = SuggestField(*root.GetDescriptor(), parent, prefix, word);
  return absl::InvalidArgumentError(
      absl::StrCat("--set ", edit, ": there is no field '", prefix, word, "'",
                   near.empty() ? "" : absl::StrCat("; did you mean '", near, "'?")));
}

absl::Status BadValue(const std::string& edit, const std::string& wanted) {
  return absl::InvalidArgumentError(absl::StrCat("--set ", edit, ": the value must be ", wanted));
}

absl::Status SetScalar(Message& message, const FieldDescriptor& field, const std::string& value,
                       const std::string& edit) {
  const Reflection& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      int32_t parsed = 0;
      if (!absl::SimpleAtoi(value, &parsed)) return BadValue(edit, "a whole number of 32 bits");
      reflection.SetInt32(&message, &field, parsed);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t parsed = 0;
      if (!absl::SimpleAtoi(value, &parsed)) return BadValue(edit, "a whole number");
      reflection.SetInt64(&message, &field, parsed);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t parsed = 0;
      if (!absl::SimpleAtoi(value, &parsed)) return BadValue(edit, "a whole number from 0");
      reflection.SetUInt64(&message, &field, parsed);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double parsed = 0;
      if (!absl::SimpleAtod(value, &parsed) || !std::isfinite(parsed)) {
        return BadValue(edit, "a number");
      }
      reflection.SetDouble(&message, &field, parsed);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      bool parsed = false;
      if (!absl::SimpleAtob(value, &parsed)) return BadValue(edit, "true or false");
      reflection.SetBool(&message, &field, parsed);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_STRING:
      reflection.SetString(&message, &field, value);
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(absl::StrCat("--set ", edit, ": '",
                                                     std::string(field.name()),
                                                     "' can only be set in a --config file"));
  }
}

absl::Status ApplyEdit(const std::string& edit, std::set<std::string>& lists, Message& root) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(edit, absl::MaxSplits('=', 1));
  const auto& [path, value] = parts;
  if (path.empty() || !absl::StrContains(edit, '=')) {
    return absl::InvalidArgumentError(
        absl::StrCat("--set ", edit, ": wanted path.to.field=value, e.g. train.steps=100"));
  }
  Message* message = &root;
  std::string prefix;
  const std::vector<std::string> words = absl::StrSplit(path, '.');
  for (size_t i = 0; i < words.size(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(words[i]);
    if (field == nullptr) {
      return UnknownField(root, *message->GetDescriptor(), prefix, words[i], edit);
    }
    const bool is_last = i + 1 == words.size();
    absl::StrAppend(&prefix, words[i]);
    const Reflection& reflection = *message->GetReflection();
    if (field->is_repeated()) {
      if (!is_last || field->message_type() == nullptr) {
        return absl::InvalidArgumentError(
            absl::StrCat("--set ", edit, ": '", prefix, "' is a list; --set ", prefix,
                         "=VALUE gives it one element, a --config file the rest"));
      }
      if (lists.insert(prefix).second) reflection.ClearField(message, field);
      Message& element = *reflection.AddMessage(message, field);
      return SetScalar(element, *element.GetDescriptor()->field(0), value, edit);
    }
    if (is_last && field->message_type() != nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("--set ", edit, ": '", prefix, "' is a group of fields, e.g. ",
                       absl::StrCat(prefix, "."), FieldPaths(*field->message_type()).front()));
    }
    if (is_last) return SetScalar(*message, *field, value, edit);
    if (field->message_type() == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("--set ", edit, ": '", prefix, "' is a value and has no fields"));
    }
    message = reflection.MutableMessage(message, field);
    absl::StrAppend(&prefix, ".");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadFile(absl::string_view name, const std::string& path) {
  std::error_code error;
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path, error)) {
    return absl::NotFoundError(absl::StrCat(name, " ", path, ": cannot read this file"));
  }
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

FlagSet FlagsOf(ConfigFlags& flags) {
  return {{.name = "--preset",
           .value = "NAME",
           .help = "a configuration that comes with Sluice",
           .target = &flags.preset},
          {.name = "--config",
           .value = "FILE.textproto",
           .help = "a configuration of your own: a RunConfig as textproto",
           .target = &flags.file},
          {.name = "--set",
           .value = "PATH=VALUE",
           .help = "changes one field, e.g. train.steps=100; may be repeated",
           .target = &flags.edits}};
}

std::vector<std::string> FieldPaths(const Descriptor& descriptor) {
  std::vector<std::string> paths;
  AppendPaths(descriptor, "", paths);
  return paths;
}

absl::Status ParseTextproto(absl::string_view text, absl::string_view source, Message& message) {
  FirstError error(source);
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (parser.MergeFromString(std::string(text), &message)) return absl::OkStatus();
  std::string found = error.text();
  // 'Message type "X" has no field named "Y".': add the field that was probably meant.
  const std::vector<std::string> quoted = absl::StrSplit(found, '"');
  if (quoted.size() == 5 && absl::StrContains(quoted[2], "has no field named")) {
    const Descriptor* parent =
        message.GetDescriptor()->file()->pool()->FindMessageTypeByName(quoted[1]);
    CHECK(parent != nullptr) << quoted[1];
    const std::string near = SuggestField(*message.GetDescriptor(), *parent, "", quoted[3]);
    if (!near.empty()) absl::StrAppend(&found, " Did you mean '", near, "'?");
  }
  return absl::InvalidArgumentError(found);
}

absl::Status ApplyEdits(const std::vector<std::string>& edits, Message& message) {
  std::set<std::string> lists;  // those an edit has already begun anew
  for (const std::string& edit : edits) RETURN_IF_ERROR(ApplyEdit(edit, lists, message));
  return absl::OkStatus();
}

absl::StatusOr<trainer::RunConfig> LoadConfig(const ConfigFlags& flags) {
  std::vector<std::string> names;
  for (const Preset& preset : Presets()) names.push_back(preset.name);
  if (flags.preset.empty() == flags.file.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        flags.preset.empty() ? "nothing says what to run" : "--preset and --config are both given",
        "; wanted one of --preset NAME (", absl::StrJoin(names, ", "),
        ") or --config FILE.textproto"));
  }
  trainer::RunConfig config;
  if (!flags.file.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile("--config", flags.file));
    RETURN_IF_ERROR(ParseTextproto(text, flags.file, config));
  } else {
    const Preset* found = nullptr;
    for (const Preset& preset : Presets()) {
      if (preset.name == flags.preset) found = &preset;
    }
    if (found == nullptr) {
      return absl::NotFoundError(
          absl::StrCat("--preset ", flags.preset, ": there is no such preset (there are ",
                       absl::StrJoin(names, ", "), ")", DidYouMean(flags.preset, names)));
    }
    RETURN_IF_ERROR(ParseTextproto(found->text, absl::StrCat("preset ", flags.preset), config));
  }
  RETURN_IF_ERROR(ApplyEdits(flags.edits, config));
  return config;
}

}  // namespace sluice::launch
