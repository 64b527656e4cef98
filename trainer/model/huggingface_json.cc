#include "trainer/model/huggingface_json.h"

#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::trainer {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostShown = 60;
constexpr int kMostDepth = 16;  // the library's writer recurses

std::string Shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kMostShown) text = text.substr(0, kMostShown) + "...";
  return text;
}

}  // namespace

struct KeyReader::State {
  Json object;
  std::string path;                         // "config.json: " or "config.json: rope_scaling."
  std::map<std::string, std::string> uses;  // key -> what became of it
  std::vector<std::string> nested_lines;
  absl::Status status;

  void Refuse(const std::string& key, const std::string& wanted) {
    if (!status.ok()) return;
    const auto found = object.find(key);
    status = absl::InvalidArgumentError(
        absl::StrCat("config.json: ", path, key, ": found ",
                     found == object.end() ? "nothing" : Shown(*found), ", wanted ", wanted));
  }
  // The value, marked as used; null where it is missing or null.
  const Json* Take(const std::string& key) {
    const auto found = object.find(key);
    if (found == object.end()) return nullptr;
    uses.emplace(key, "used");
    return found->is_null() ? nullptr : &*found;
  }
  template <typename T>
  void MustBe(const char* key, const T& value) {
    const Json* found = Take(key);
    if (found != nullptr && *found != Json(value)) Refuse(key, Shown(Json(value)));
  }
};

KeyReader::KeyReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
KeyReader::KeyReader(KeyReader&&) noexcept = default;
KeyReader::~KeyReader() = default;

absl::StatusOr<KeyReader> KeyReader::Parse(absl::string_view json) {
  std::vector<std::set<std::string>> keys;
  std::string repeated;
  bool is_too_deep = false;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    is_too_deep = is_too_deep || depth > kMostDepth;
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key &&
        !keys.back().insert(parsed.get_ref<const std::string&>()).second) {
      repeated = parsed.get<std::string>();
    }
    return true;
  };
  Json parsed = Json::parse(json.begin(), json.end(), watch, /*allow_exceptions=*/false);
  if (parsed.is_discarded() || !parsed.is_object()) {
    return absl::InvalidArgumentError("config.json: found no JSON object");
  }
  if (is_too_deep) return absl::InvalidArgumentError("config.json: it nests too deeply");
  if (!repeated.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: the key ", repeated, " is there twice"));
  }
  auto state = std::make_unique<State>();
  state->object = std::move(parsed);
  return KeyReader(std::move(state));
}

bool KeyReader::Has(const std::string& key) const { return state_->object.contains(key); }

bool KeyReader::IsNull(const std::string& key) const {
  return !Has(key) || state_->object[key].is_null();
}

int64_t KeyReader::Int(const char* key) {
  if (IsNull(key)) state_->Refuse(key, "an integer");
  return Int(key, 0);
}

int64_t KeyReader::Int(const char* key, int64_t otherwise) {
  const Json* found = state_->Take(key);
  if (found == nullptr) return otherwise;
  const double number = found->is_number() ? found->get<double>() : -1;
  if (number != std::floor(number) || number < 0 || number > std::numeric_limits<int32_t>::max()) {
    state_->Refuse(key, "an integer from 0 to 2147483647");
    return otherwise;
  }
  return static_cast<int64_t>(number);
}

double KeyReader::Number(const char* key) {
  if (IsNull(key)) state_->Refuse(key, "a number");
  return Number(key, 0.0);
}

double KeyReader::Number(const char* key, double otherwise) {
  const Json* found = state_->Take(key);
  if (found == nullptr) return otherwise;
  if (found->is_number()) return found->get<double>();
  state_->Refuse(key, "a number");
  return otherwise;
}

bool KeyReader::Bool(const char* key, bool otherwise) {
  const Json* found = state_->Take(key);
  if (found == nullptr) return otherwise;
  if (found->is_boolean()) return found->get<bool>();
  state_->Refuse(key, "true or false");
  return otherwise;
}

std::string KeyReader::Text(const char* key) {
  if (IsNull(key)) state_->Refuse(key, "a text");
  return Text(key, "");
}

std::string KeyReader::Text(const char* key, const std::string& otherwise) {
  const Json* found = state_->Take(key);
  if (found == nullptr) return otherwise;
  if (found->is_string()) return found->get<std::string>();
  state_->Refuse(key, "a text");
  return otherwise;
}

std::vector<int64_t> KeyReader::Ints(const char* key) {
  const Json* found = state_->Take(key);
  if (found == nullptr) return {};
  std::vector<int64_t> values;
  for (const Json& value : *found) {
    if (found->is_array() && value.is_number_integer()) {
      values.push_back(value.get<int64_t>());
    } else {
      state_->Refuse(key, "a list of integers");
    }
  }
  return values;
}

void KeyReader::MustBe(const char* key, bool value) { state_->MustBe(key, value); }
void KeyReader::MustBe(const char* key, int64_t value) { state_->MustBe(key, value); }
void KeyReader::MustBe(const char* key, double value) { state_->MustBe(key, value); }
void KeyReader::MustBe(const char* key, const std::string& value) { state_->MustBe(key, value); }

void KeyReader::MustBeNull(const char* key) {
  if (state_->Take(key) != nullptr) state_->Refuse(key, "null");
}

void KeyReader::MustAgree(const char* key, const char* other) {
  const Json* found = state_->Take(key);
  const std::string path = other;
  const size_t dot = path.find('.');
  const Json& parent = state_->object[path.substr(0, dot)];
  if (found == nullptr || !parent.is_object() || !parent.contains(path.substr(dot + 1))) return;
  const Json& second = parent[path.substr(dot + 1)];
  if (*found != second) state_->Refuse(key, absl::StrCat(Shown(second), " as ", other));
}

void KeyReader::Ignore(const char* key, const char* why) {
  if (Has(key)) state_->uses.emplace(key, absl::StrCat("irrelevant, ", why));
}

void KeyReader::Refuse(const char* key, const std::string& wanted) { state_->Refuse(key, wanted); }

KeyReader KeyReader::Object(const char* key) {
  auto nested = std::make_unique<State>();
  nested->path = absl::StrCat(state_->path, key, ".");
  const Json* found = state_->Take(key);
  nested->object = Json::object();
  if (found != nullptr && found->is_object()) {
    nested->object = *found;
  } else {
    state_->Refuse(key, "an object");
  }
  return KeyReader(std::move(nested));
}

void KeyReader::Finish(const KeyReader& nested) {
  const auto report = nested.Report();
  if (report.ok()) {
    state_->nested_lines.insert(state_->nested_lines.end(), report->begin(), report->end());
  } else if (state_->status.ok()) {
    state_->status = report.status();
  }
}

absl::StatusOr<std::vector<std::string>> KeyReader::Report() const {
  if (!state_->status.ok()) return state_->status;
  std::vector<std::string> lines;
  for (const auto& [key, value] : state_->object.items()) {
    const auto use = state_->uses.find(key);
    if (use == state_->uses.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("config.json: ", state_->path, key, ": found ", Shown(value),
                       ", wanted no key that this program does not know (--ignore ", key,
                       " if it changes nothing)"));
    }
    lines.push_back(absl::StrCat(state_->path, key, ": ", use->second));
  }
  lines.insert(lines.end(), state_->nested_lines.begin(), state_->nested_lines.end());
  return lines;
}

}  // namespace sluice::trainer
