// From --preset, --config and --set to a RunConfig: what the user wrote, no defaults yet.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "launch/flags.h"
#include "trainer/loop/run_config.pb.h"

namespace sluice::launch {

struct ConfigFlags {
  std::string preset;              // a name among Presets()
  std::string file;                // a textproto
  std::vector<std::string> edits;  // path=value, in order
};

// --preset, --config and --set, bound to `flags`.
FlagSet FlagsOf(ConfigFlags& flags);

// The preset or the file (exactly one is given), then the edits. INVALID_ARGUMENT, NOT_FOUND: one
// sentence that names the flag, what was found and what is wanted; syntax errors give file:line.
absl::StatusOr<trainer::RunConfig> LoadConfig(const ConfigFlags& flags);

// The file that `name`, a flag's, gave; folders are refused. NOT_FOUND: "name path: cannot read
// this file".
absl::StatusOr<std::string> ReadFile(absl::string_view name, const std::string& path);

// Parses textproto `text` over `message`; `source` names it in errors ("file:line: ...").
absl::Status ParseTextproto(absl::string_view text, absl::string_view source,
                            google::protobuf::Message& message);

// Applies "path.to.field=value" edits in order. Numbers, true/false, and strings without quotes; a
// list of messages (data.train) gets one element an edit, whose first field is the value, and the
// first edit of a list drops what the list held.
absl::Status ApplyEdits(const std::vector<std::string>& edits, google::protobuf::Message& message);

// Every path ApplyEdits accepts, in the order of the fields: "model.vocab_size", ...
std::vector<std::string> FieldPaths(const google::protobuf::Descriptor& descriptor);

}  // namespace sluice::launch
