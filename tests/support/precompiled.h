// What tests include most, precompiled once where tests/CMakeLists.txt says so. Templates of JSON,
// which cost each test that reads a golden file seconds, are instantiated in precompiled.cc alone.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

extern template class nlohmann::basic_json<>;
extern template class nlohmann::detail::serializer<nlohmann::json>;
extern template class nlohmann::detail::lexer<nlohmann::json,
                                              nlohmann::detail::input_stream_adapter>;
extern template class nlohmann::detail::parser<nlohmann::json,
                                               nlohmann::detail::input_stream_adapter>;
