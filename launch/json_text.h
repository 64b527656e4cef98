// JSON on the command line: one object a line.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace sluice::launch {

using Json = nlohmann::ordered_json;  // keys in the order of insertion

// Without a line end. Bytes that are not UTF-8 (a path may hold any) become U+FFFD.
inline std::string JsonText(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace sluice::launch
