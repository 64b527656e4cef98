#include "tests/support/precompiled.h"

template class nlohmann::basic_json<>;
template class nlohmann::detail::serializer<nlohmann::json>;
template class nlohmann::detail::lexer<nlohmann::json, nlohmann::detail::input_stream_adapter>;
template class nlohmann::detail::parser<nlohmann::json, nlohmann::detail::input_stream_adapter>;
